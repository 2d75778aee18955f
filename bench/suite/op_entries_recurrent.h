// Entries of the op table for sequences, codebooks and graphs.
#pragma once

#include "bench/suite/op_table.h"

namespace expctr {

/// gru, augru, aigru, lstm, mask_padding, nearest, sparse_matmul, cholesky, cholesky_solve.
void add_recurrent_entries(std::vector<OpEntry>& table);

}  // namespace expctr
