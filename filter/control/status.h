/* SPDX-License-Identifier: BSD-3-Clause */

/* status: what the cache tells about itself, for people, programs and
 * Prometheus.
 *
 * All of it comes from engine/status_list.h.  The server makes all three, so
 * that a client needs to know none of the names:
 *
 *   struct cache_status status;
 *
 *   cache_get_status (cache, &status);
 *   status.device = config.pmem;       (which the engine does not know)
 *   status_text (&status, stream);
 *
 * Nothing here depends on the locale or takes a lock.  Errors of a stream are
 * the caller's to look for. */

#ifndef PCACHE_STATUS_H
#define PCACHE_STATUS_H

#include <stdio.h>

#include "engine/cache.h"

struct json_object;

/* One object, with a member of its name for each item of the list; the caller
 * puts it.  NULL when out of memory.
 *
 *   counters and gauges    numbers, in the unit of the list
 *   ratios                 0 to 1, or null
 *   flags                  true or false
 *   texts                  strings, or null
 *   places                 { "segment": n, "offset": bytes }, or null; an array
 *                          of these
 *   latencies              { "count", "sum_ns", "p50_ns", "p99_ns", "p999_ns",
 *                            "buckets": [[bound_ns, requests below it and not
 *                            below the bound before], ...] }, empty buckets
 *                          left out */
extern struct json_object *status_json (const struct cache_status *status);

/* For people: sections; name, value with its unit, and description. */
extern void status_text (const struct cache_status *status, FILE *stream);

/* "name: number" for each item that is a number, as pcache-statsfile has it. */
extern void status_numbers (const struct cache_status *status, FILE *stream);

/* Prometheus' text format 0.0.4.  The metric of an item is called
 * pcache_NAME, with these changes: counters end in _total; times are in
 * seconds, and _ms at the end is _seconds; a size ends in _bytes, a rate in
 * _bytes_per_second; gc_percent is pcache_gc_ratio, and segments_total
 * pcache_segments.  Texts are the labels of
 * pcache_info.  A place is the two metrics NAME_segment and
 * NAME_offset_bytes, with a label head="N" if there are several. */
extern void status_metrics (const struct cache_status *status, FILE *stream);

#endif /* PCACHE_STATUS_H */
