// Visiting the operands of a kernel's argument struct without listing them a second time.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include "base/view.h"

namespace expctr {

namespace reflect {

/// Stands for a value of any type while members are counted; never made.
struct Anything {
  template <class T>
  operator T() const;
};

/// Members of an aggregate: as many as can be initialised.
template <class Args, class... Given>
consteval std::size_t member_count() {
  if constexpr (requires { Args{std::declval<Given>()..., Anything()}; })
    return member_count<Args, Given..., Anything>();
  else
    return sizeof...(Given);
}

template <class Visit, class Member>
void visit_view(Visit& visit, Member& member) {
  if constexpr (std::is_same_v<std::remove_const_t<Member>, View>) visit(member);
}

template <class Visit, class... Members>
void visit_views(Visit& visit, Members&... members) {
  (visit_view(visit, members), ...);
}

}  // namespace reflect

/// visit(view) for each member of type View, in order of declaration. Views inside of members are not visited.
template <class Args, class Visit>
void for_each_view(Args& args, Visit visit) {
  using reflect::visit_views;
  constexpr std::size_t n = reflect::member_count<std::remove_const_t<Args>>();
  static_assert(n >= 1 && n <= 24, "for_each_view takes aggregates of 1 to 24 members: add a line below");
  // clang-format off
  // A structured binding has as many names as the aggregate has members: one line a count.
  if constexpr (n == 1) { auto& [a] = args; visit_views(visit, a); }
  if constexpr (n == 2) { auto& [a, b] = args; visit_views(visit, a, b); }
  if constexpr (n == 3) { auto& [a, b, c] = args; visit_views(visit, a, b, c); }
  if constexpr (n == 4) { auto& [a, b, c, d] = args; visit_views(visit, a, b, c, d); }
  if constexpr (n == 5) { auto& [a, b, c, d, e] = args; visit_views(visit, a, b, c, d, e); }
  if constexpr (n == 6) { auto& [a, b, c, d, e, f] = args; visit_views(visit, a, b, c, d, e, f); }
  if constexpr (n == 7) { auto& [a, b, c, d, e, f, g] = args; visit_views(visit, a, b, c, d, e, f, g); }
  if constexpr (n == 8) { auto& [a, b, c, d, e, f, g, h] = args; visit_views(visit, a, b, c, d, e, f, g, h); }
  if constexpr (n == 9) { auto& [a, b, c, d, e, f, g, h, i] = args; visit_views(visit, a, b, c, d, e, f, g, h, i); }
  if constexpr (n == 10) { auto& [a, b, c, d, e, f, g, h, i, j] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j); }
  if constexpr (n == 11) { auto& [a, b, c, d, e, f, g, h, i, j, k] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k); }
  if constexpr (n == 12) { auto& [a, b, c, d, e, f, g, h, i, j, k, l] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l); }
  if constexpr (n == 13) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m); }
  if constexpr (n == 14) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n); }
  if constexpr (n == 15) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o); }
  if constexpr (n == 16) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p); }
  if constexpr (n == 17) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q); }
  if constexpr (n == 18) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r); }
  if constexpr (n == 19) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s); }
  if constexpr (n == 20) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t); }
  if constexpr (n == 21) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u); }
  if constexpr (n == 22) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v); }
  if constexpr (n == 23) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w); }
  if constexpr (n == 24) { auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x] = args; visit_views(visit, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x); }
  // clang-format on
}

}  // namespace expctr
