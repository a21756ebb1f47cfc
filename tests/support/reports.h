/* SPDX-License-Identifier: BSD-3-Clause */

/* reports: what the engine said, for the test to look at. */

#ifndef PCACHE_TEST_REPORTS_H
#define PCACHE_TEST_REPORTS_H

#include <stdbool.h>

#include "base/report.h"

/* Take all reports from now on, and forget those taken before. */
extern void reports_collect (void);

/* One line each, in order; stays until the next reports_collect. */
extern const char *reports_text (enum report_level level);
extern unsigned reports_count (enum report_level level);

/* At least one line of LEVEL has all of WORDS (separated by "|") in it. */
extern bool reports_have (enum report_level level, const char *words);

#endif /* PCACHE_TEST_REPORTS_H */
