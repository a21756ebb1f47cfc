/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include "base/arith.h"
#include "engine/schedule.h"

/* Between two looks. */
#define LOOK_MIN_MS UINT64_C (10)
#define LOOK_MAX_MS UINT64_C (500)

static bool
exceeds (const struct situation *s, uint64_t percent)
{
  return percent < 100 && s->dirty_space > s->space / 100 * percent;
}

/* A low mark above the high one counts as the high one, so that the two can be
 * changed in either order. */
static bool
is_above (struct schedule *schedule, const struct settings *settings,
          const struct situation *s)
{
  const uint64_t high = setting_get (settings, SETTING_dirty_high);
  const uint64_t low = setting_get (settings, SETTING_dirty_low);

  schedule->above = exceeds (s, high)
    || (schedule->above && high < 100 && exceeds (s, MIN (low, high)));
  return schedule->above;
}

static bool
is_idle (struct schedule *schedule, uint64_t idle_ms,
         const struct situation *s)
{
  if (s->requests != schedule->requests) {
    schedule->requests = s->requests;
    schedule->quiet_since_ms = s->now_ms;
  }
  return idle_ms > 0 && s->now_ms - schedule->quiet_since_ms >= idle_ms;
}

static uint64_t
look_after (uint64_t period_ms)
{
  return MIN (MAX (period_ms / 4, LOOK_MIN_MS), LOOK_MAX_MS);
}

uint64_t
schedule_pause_ms (const struct settings *settings)
{
  const uint64_t idle_ms = setting_get (settings, SETTING_writeback_idle);
  const uint64_t pause_ms =
    look_after (setting_get (settings, SETTING_writeback_delay));

  return idle_ms > 0 ? MIN (pause_ms, look_after (idle_ms)) : pause_ms;
}

enum writeback_cause
schedule_look (struct schedule *schedule, const struct settings *settings,
               const struct situation *s, uint64_t *next_ms)
{
  const uint64_t delay_ms = setting_get (settings, SETTING_writeback_delay);
  const uint64_t idle_ms = setting_get (settings, SETTING_writeback_idle);
  const bool above = is_above (schedule, settings, s);
  const bool idle = is_idle (schedule, idle_ms, s);

  *next_ms = s->now_ms + look_after (delay_ms);
  if (s->drain)
    return CAUSE_DRAIN;
  if (s->paused)
    return CAUSE_NONE;
  if (s->short_of_space)
    return CAUSE_SPACE;
  if (above)
    return CAUSE_DIRTY;
  /* It may have come since the clock was read. */
  if (s->now_ms - MIN (s->now_ms, s->oldest_ms) >= delay_ms)
    return CAUSE_AGE;
  if (idle)
    return CAUSE_IDLE;
  *next_ms = MIN (*next_ms, s->oldest_ms + delay_ms);
  if (idle_ms > 0)
    *next_ms = MIN (*next_ms, s->now_ms + look_after (idle_ms));
  return CAUSE_NONE;
}
