// Style sheet and script of the report, written into the page.
#pragma once

#include <string_view>

namespace expctr::report {

/// Light and dark by the reader's setting; one column and tables as cards below 720 pixels; prints.
extern const std::string_view kStyle;

/// Adds sorting by column and filters to the table of explanations. Without it the page is complete.
extern const std::string_view kScript;

}  // namespace expctr::report
