// Regular expressions of tokeniser files, over PCRE2.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace expctr {

/// A compiled expression. `on_bytes`: matched against bytes instead of characters. Thread-safe.
class Regex {
 public:
  /// Throws InputError, naming the file, when the expression does not compile.
  Regex(const std::string& expression, bool on_bytes, const std::string& file);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// Room for one match; one a thread.
  class Match {
   public:
    Match();
    ~Match();
    Match(const Match&) = delete;
    Match& operator=(const Match&) = delete;
    std::size_t begin() const;
    std::size_t end() const;

   private:
    friend class Regex;
    struct Handle;
    std::unique_ptr<Handle> handle_;
  };

  /// First match at or after byte `at`; text is well-formed UTF-8 unless on_bytes. An empty match counts as none: the search goes on behind
  /// it. Throws InputError when a match needs more than ten million steps.
  bool find(std::string_view text, std::size_t at, Match& match) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace expctr
