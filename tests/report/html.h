// A second, simple reader of HTML for the tests of the report: which elements there are, whether they nest, and the text between them.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace expctr {

struct HtmlReading {
  std::string fault;                           ///< "" when every element is closed in order
  std::map<std::string, int> elements;         ///< how many of each name
  std::vector<std::string> ids, link_targets;  ///< id="..." and href="..."
  std::string text;                            ///< the text outside <style> and <script>, entities as written, one line
};

/// Follows the grammar only as far as the report uses it: quoted attributes, no omitted end tags, raw text in <style> and <script>.
inline HtmlReading read_html(std::string_view html) {
  static const std::vector<std::string> kEmpty = {"meta"};
  HtmlReading reading;
  std::vector<std::string> open;
  std::size_t at = 0;
  const auto fail = [&](const std::string& what) {
    if (reading.fault.empty()) reading.fault = what + " near: " + std::string(html.substr(at, 80));
  };
  while (at < html.size() && reading.fault.empty()) {
    const std::size_t next = html.find('<', at);
    for (const char c : html.substr(at, next - at)) reading.text += c == '\n' ? ' ' : c;
    if (next == std::string_view::npos) break;
    at = next;
    if (html.substr(at, 2) == "<!") {
      at = html.find('>', at) + 1;
      continue;
    }
    const bool closing = html.substr(at, 2) == "</";
    std::size_t cursor = at + (closing ? 2 : 1);
    std::string name;
    while (cursor < html.size() && (std::isalnum(static_cast<unsigned char>(html[cursor])) != 0)) name += html[cursor++];
    if (name.empty()) {
      fail("'<' that starts no tag");
      break;
    }
    bool self_closed = false;
    while (cursor < html.size() && html[cursor] != '>') {
      if (html[cursor] == '<') fail("'<' inside a tag");
      if (html[cursor] == '/') self_closed = true;
      if (html[cursor] != '"') {
        ++cursor;
        continue;
      }
      const std::size_t end = html.find('"', cursor + 1);
      if (end == std::string_view::npos) {
        fail("open quote");
        break;
      }
      const std::string value(html.substr(cursor + 1, end - cursor - 1));
      const auto attribute_is = [&](std::string_view attribute) {
        return cursor >= attribute.size() && html.substr(cursor - attribute.size(), attribute.size()) == attribute;
      };
      if (attribute_is(" id=")) reading.ids.push_back(value);
      if (attribute_is(" href=")) reading.link_targets.push_back(value);
      if (end + 1 < html.size() && html[end + 1] != ' ' && html[end + 1] != '>' && html[end + 1] != '/')
        fail("no space after an attribute");
      cursor = end + 1;
    }
    if (!reading.fault.empty()) break;
    if (cursor >= html.size()) {
      fail("open tag");
      break;
    }
    if (closing) {
      if (open.empty() || open.back() != name) {
        fail("</" + name + "> closes <" + (open.empty() ? "nothing" : open.back()) + ">");
        break;
      }
      open.pop_back();
    } else {
      ++reading.elements[name];
      const bool empty = std::find(kEmpty.begin(), kEmpty.end(), name) != kEmpty.end();
      if (!empty && !self_closed) open.push_back(name);
      if (name == "style" || name == "script") cursor = html.find("</" + name, cursor) - 1;
    }
    at = cursor + 1;
  }
  if (reading.fault.empty() && !open.empty()) reading.fault = "<" + open.back() + "> is never closed";
  return reading;
}

}  // namespace expctr
