/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/arith.h"
#include "base/parse.h"
#include "engine/settings.h"

static const struct {
  const char *name, *expected;
  enum setting_type type;
  uint64_t least, most;
} about[] = {
#define X(name, text, type, least, most, initial, expected)             \
  { text, expected, SETTING_##type, least, most },
  SETTINGS_LIST (X)
#undef X
};

const char *
setting_name (enum setting which)
{
  return about[which].name;
}

enum setting_type
setting_type (enum setting which)
{
  return about[which].type;
}

bool
setting_allows (enum setting which, uint64_t value)
{
  if (about[which].type == SETTING_UNIT
      && (value == 0 || !is_power_of_2 (value)))
    return value == 0;
  return value >= about[which].least && value <= about[which].most;
}

/* The word at *WORDS, up to the next bar; *WORDS moves behind it. */
static size_t
take_word (const char **words, const char **word)
{
  const size_t length = strcspn (*words, "|");

  *word = *words;
  *words += length + ((*words)[length] == '|');
  return length;
}

/* "a|b|c" becomes "a, b or c". */
const char *
setting_expected (enum setting which, char buf[static 128])
{
  const char *words = about[which].expected, *word;
  size_t at = 0;

  if (about[which].type != SETTING_CHOICE)
    return about[which].expected;
  while (*words) {
    const int length = take_word (&words, &word);
    const char *before = at == 0 ? "" : *words ? ", " : " or ";

    at += snprintf (buf + at, 128 - at, "%s%.*s", before, length, word);
  }
  return buf;
}

bool
setting_find (const char *name, enum setting *which)
{
  for (unsigned i = 0; i < SETTINGS_COUNT; i++)
    if (strcmp (name, about[i].name) == 0) {
      *which = i;
      return true;
    }
  return false;
}

static bool
parse_word (const char *words, const char *text, uint64_t *value)
{
  const char *word;

  for (uint64_t i = 0; *words; i++) {
    const size_t length = take_word (&words, &word);

    if (strlen (text) == length && memcmp (text, word, length) == 0) {
      *value = i;
      return true;
    }
  }
  return false;
}

bool
setting_parse (enum setting which, const char *text, uint64_t *value)
{
  uint64_t parsed = 0;
  unsigned ms;
  bool is_one = false;

  switch (about[which].type) {
  case SETTING_NUMBER:
    is_one = parse_number (text, about[which].most, &parsed);
    break;
  case SETTING_SIZE:
  case SETTING_UNIT:
    is_one = parse_size (text, &parsed);
    break;
  case SETTING_TIME:
    is_one = parse_delay (text, about[which].most, &ms);
    parsed = is_one ? ms : 0;
    break;
  case SETTING_CHOICE:
    is_one = parse_word (about[which].expected, text, &parsed);
    break;
  }
  if (!is_one || !setting_allows (which, parsed))
    return false;
  *value = parsed;
  return true;
}

const char *
setting_format (enum setting which, uint64_t value, char buf[static 32])
{
  const char *words = about[which].expected, *word = "";
  int length = 0;

  switch (about[which].type) {
  case SETTING_NUMBER:
  case SETTING_SIZE:
  case SETTING_UNIT:
    snprintf (buf, 32, "%" PRIu64, value);
    break;
  case SETTING_TIME:
    snprintf (buf, 32, "%" PRIu64 "ms", value);
    break;
  case SETTING_CHOICE:
    for (uint64_t i = 0; i <= value; i++)
      length = take_word (&words, &word);
    snprintf (buf, 32, "%.*s", length, word);
    break;
  }
  return buf;
}
