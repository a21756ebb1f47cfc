/* SPDX-License-Identifier: BSD-3-Clause */

/* Settings: what is taken, what is refused, and that what is shown can be
 * given again. */

#include <config.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cache.h"
#include "engine/settings.h"

static void
defaults_are_allowed (void **state)
{
  const struct cache_options options = CACHE_OPTIONS_DEFAULT;

  (void) state;
  for (unsigned i = 0; i < SETTINGS_COUNT; i++)
    assert_true (setting_allows (i, options.setting[i])
                 || (i == SETTING_gc_percent
                     && options.setting[i] == SETTING_REMEMBERED));
}

static void
each_name_is_found (void **state)
{
  enum setting which;

  (void) state;
  for (unsigned i = 0; i < SETTINGS_COUNT; i++) {
    assert_true (setting_find (setting_name (i), &which));
    assert_int_equal (which, i);
  }
  assert_false (setting_find ("", &which));
  assert_false (setting_find ("gc", &which));
  assert_false (setting_find ("gc-percent ", &which));
}

static void
what_is_shown_is_taken (void **state)
{
  char text[32];

  (void) state;
  for (unsigned i = 0; i < SETTINGS_COUNT; i++)
    for (uint64_t value = 0; value < 100; value++) {
      uint64_t again = UINT64_MAX;

      if (!setting_allows (i, value))
        continue;
      setting_format (i, value, text);
      assert_true (setting_parse (i, text, &again));
      assert_int_equal (again, value);
    }
}

static void
limits_are_kept (void **state)
{
  uint64_t value = 17;

  (void) state;
  assert_false (setting_parse (SETTING_gc_percent, "91", &value));
  assert_false (setting_parse (SETTING_gc_percent, "300", &value));
  assert_false (setting_parse (SETTING_gc_percent, "-1", &value));
  assert_false (setting_parse (SETTING_gc_percent, "", &value));
  assert_false (setting_parse (SETTING_writeback_delay, "24.1h", &value));
  assert_false (setting_parse (SETTING_writeback_delay, "86401", &value));
  assert_int_equal (value, 17);
  assert_true (setting_parse (SETTING_gc_percent, "90", &value));
  assert_int_equal (value, 90);
  assert_true (setting_parse (SETTING_writeback_delay, "0.5", &value));
  assert_int_equal (value, 500);
  assert_true (setting_parse (SETTING_writeback_delay, "1.5h", &value));
  assert_int_equal (value, 5400000);
}

static void
a_unit_is_a_power_of_two_or_nothing (void **state)
{
  static const char *const wrong[] = {
    "1", "2048", "4095", "4097", "12k", "2M", "9223372036854775808", "-4k",
  };
  uint64_t value = 17;

  (void) state;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    assert_false (setting_parse (SETTING_fill_size, wrong[i], &value));
  assert_int_equal (value, 17);
  assert_true (setting_parse (SETTING_fill_size, "0", &value));
  assert_int_equal (value, 0);
  assert_true (setting_parse (SETTING_fill_size, "4k", &value));
  assert_int_equal (value, 4096);
  assert_true (setting_parse (SETTING_fill_size, "1M", &value));
  assert_int_equal (value, 1 << 20);
}

static void
a_choice_is_one_of_its_words (void **state)
{
  static const char *const wrong[] = {
    "", "stric", "strictly", "strict|batch", "|", "Strict", "0",
  };
  uint64_t value = 17;
  char buf[128];

  (void) state;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    assert_false (setting_parse (SETTING_writeback_order, wrong[i], &value));
  assert_int_equal (value, 17);
  assert_true (setting_parse (SETTING_writeback_order, "batch", &value));
  assert_int_equal (value, WRITEBACK_BATCH);
  assert_string_equal (setting_expected (SETTING_writeback_order, buf),
                       "strict or batch");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (defaults_are_allowed),
    cmocka_unit_test (each_name_is_found),
    cmocka_unit_test (what_is_shown_is_taken),
    cmocka_unit_test (limits_are_kept),
    cmocka_unit_test (a_unit_is_a_power_of_two_or_nothing),
    cmocka_unit_test (a_choice_is_one_of_its_words),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
