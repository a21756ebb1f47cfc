/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "base/parse.h"

/* Take the digits at *TEXT. */
static bool
take_digits (const char **text, uint64_t max, uint64_t *number)
{
  uint64_t n = 0;

  if (**text < '0' || **text > '9')
    return false;
  for (; **text >= '0' && **text <= '9'; ++*text) {
    unsigned digit = **text - '0';

    if (n > max / 10 || n * 10 > max - digit)
      return false;
    n = n * 10 + digit;
  }
  *number = n;
  return true;
}

bool
parse_number (const char *text, uint64_t max, uint64_t *number)
{
  uint64_t n;

  if (!take_digits (&text, max, &n) || *text != '\0')
    return false;
  *number = n;
  return true;
}

bool
parse_size (const char *text, uint64_t *bytes)
{
  static const struct { char suffix; unsigned shift; } units[] = {
    { 'b', 0 }, { 's', 9 }, { 'k', 10 }, { 'm', 20 }, { 'g', 30 },
    { 't', 40 }, { 'p', 50 }, { 'e', 60 },
  };
  unsigned shift = 0;
  uint64_t n;

  if (!take_digits (&text, INT64_MAX, &n))
    return false;
  if (*text != '\0') {
    size_t i = 0;

    while (i < sizeof units / sizeof units[0] &&
           units[i].suffix != (*text | 0x20))
      i++;
    if (i == sizeof units / sizeof units[0] || text[1] != '\0')
      return false;
    shift = units[i].shift;
  }
  if (n > (uint64_t) INT64_MAX >> shift)
    return false;
  *bytes = n << shift;
  return true;
}

bool
parse_bool (const char *text, bool *value)
{
  static const char *const yes[] = { "1", "true", "t", "yes", "y", "on" };
  static const char *const no[] = { "0", "false", "f", "no", "n", "off" };

  for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
    if (strcasecmp (text, yes[i]) == 0)
      return *value = true;
    if (strcasecmp (text, no[i]) == 0) {
      *value = false;
      return true;
    }
  }
  return false;
}

bool
parse_delay (const char *text, unsigned max_ms, unsigned *ms)
{
  uint64_t whole, fraction = 0, fraction_of = 1, unit, result;

  if (!take_digits (&text, UINT32_MAX, &whole))
    return false;
  if (*text == '.') {
    const char *start = ++text;

    if (!take_digits (&text, UINT32_MAX, &fraction) || text - start > 9)
      return false;
    for (; start < text; start++)
      fraction_of *= 10;
  }

  if (*text == '\0' || strcmp (text, "s") == 0)
    unit = 1000;
  else if (strcmp (text, "ms") == 0)
    unit = 1;
  else if (strcmp (text, "m") == 0)
    unit = 60000;
  else if (strcmp (text, "h") == 0)
    unit = 3600000;
  else
    return false;

  /* No overflow: both numbers have 32 bits, so a unit fits on top. */
  result = whole * unit + (fraction * unit + fraction_of - 1) / fraction_of;
  if (result > max_ms)
    return false;
  *ms = result;
  return true;
}

bool
parse_choice (const char *text, const char *const names[], unsigned *index)
{
  for (unsigned i = 0; names[i] != NULL; i++)
    if (strcmp (text, names[i]) == 0) {
      *index = i;
      return true;
    }
  return false;
}
