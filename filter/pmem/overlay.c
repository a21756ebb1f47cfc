/* SPDX-License-Identifier: BSD-3-Clause */

/* Pages that were stored to, in a hash table. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "pmem/overlay.h"

#define PAGE UINT64_C (4096)
#define BUCKETS 4096

struct page {
  struct page *next;
  uint64_t number;
  uint8_t bytes[PAGE];
};

struct overlay {
  struct pmem pmem;             /* first */
  struct pmem *below;
  bool own;                     /* it is closed, too */
  struct page *buckets[BUCKETS];
  uint64_t first, last;         /* page numbers of all; first > last: none */
};

static struct page **
bucket_of (struct overlay *o, uint64_t number)
{
  return &o->buckets[number % BUCKETS];
}

static struct page *
find_page (struct overlay *o, uint64_t number)
{
  struct page *page;

  if (number < o->first || number > o->last)
    return NULL;
  for (page = *bucket_of (o, number); page; page = page->next)
    if (page->number == number)
      break;
  return page;
}

/* The last one may be shorter. */
static size_t
page_bytes (const struct overlay *o, uint64_t number)
{
  return MIN (PAGE, o->pmem.size - number * PAGE);
}

static struct page *
make_page (struct overlay *o, uint64_t number)
{
  struct page *page = find_page (o, number);

  if (page)
    return page;
  page = calloc (1, sizeof *page);
  if (page == NULL)
    return NULL;
  page->number = number;
  /* What cannot be read is zeros from now on: a store heals the page. */
  if (pmem_read (o->below, page->bytes, number * PAGE,
                 page_bytes (o, number)) < 0)
    memset (page->bytes, 0, sizeof page->bytes);
  page->next = *bucket_of (o, number);
  *bucket_of (o, number) = page;
  o->first = MIN (o->first, number);
  o->last = MAX (o->last, number);
  return page;
}

static int
overlay_copy (struct pmem *pmem, uint64_t at, const void *from, size_t length)
{
  struct overlay *o = (struct overlay *) pmem;
  const uint8_t *p = from;

  assert (at <= pmem->size && length <= pmem->size - at);
  while (length > 0) {
    struct page *page = make_page (o, at / PAGE);
    const size_t n = MIN (length, PAGE - at % PAGE);

    if (page == NULL)
      return -ENOMEM;
    memcpy (page->bytes + at % PAGE, p, n);
    p += n;
    at += n;
    length -= n;
  }
  return 0;
}

static int
overlay_fence (struct pmem *pmem)
{
  return 0;
}

static int
overlay_make_durable (struct pmem *pmem, uint64_t at, size_t length)
{
  return 0;
}

static int
overlay_read (struct pmem *pmem, void *to, uint64_t at, size_t length)
{
  struct overlay *o = (struct overlay *) pmem;
  uint8_t *p = to;

  assert (at <= pmem->size && length <= pmem->size - at);
  while (length > 0) {
    const struct page *page = find_page (o, at / PAGE);
    size_t n = MIN (length, PAGE - at % PAGE);

    if (page)
      memcpy (p, page->bytes + at % PAGE, n);
    else {
      int r;

      while (n < length && find_page (o, (at + n) / PAGE) == NULL)
        n += MIN (length - n, PAGE);
      r = pmem_read (o->below, p, at, n);
      if (r < 0)
        return r;
    }
    p += n;
    at += n;
    length -= n;
  }
  return 0;
}

static int
overlay_checksum (struct pmem *pmem, uint64_t at, size_t length,
                  uint64_t *sum)
{
  CLEANUP_FREE uint8_t *buf = malloc (length);
  int r;

  if (buf == NULL)
    return -ENOMEM;
  r = overlay_read (pmem, buf, at, length);
  if (r == 0)
    *sum = XXH3_64bits (buf, length);
  return r;
}

static void
overlay_close (struct pmem *pmem)
{
  struct overlay *o = (struct overlay *) pmem;

  for (unsigned i = 0; i < BUCKETS; i++)
    while (o->buckets[i]) {
      struct page *page = o->buckets[i];

      o->buckets[i] = page->next;
      free (page);
    }
  if (o->own)
    pmem_close (o->below);
  free (o);
}

static const struct pmem_ops overlay_ops = {
  .copy = overlay_copy,
  .fence = overlay_fence,
  .sync = overlay_fence,
  .make_durable = overlay_make_durable,
  .read = overlay_read,
  .checksum = overlay_checksum,
  .allocate = overlay_fence,
  .close = overlay_close,
};

int
overlay_open (struct pmem *below, bool own, struct pmem **result)
{
  struct overlay *o = calloc (1, sizeof *o);

  if (o == NULL)
    return -ENOMEM;
  o->pmem = (struct pmem) {
    .ops = &overlay_ops, .size = below->size, .ordered = below->ordered,
    .kind = below->kind,
  };
  o->below = below;
  o->own = own;
  o->first = UINT64_MAX;
  *result = &o->pmem;
  return 0;
}

static bool
is_changed (struct overlay *o, uint64_t number)
{
  const struct page *page = find_page (o, number);
  uint8_t before[PAGE];

  return page
    && (pmem_read (o->below, before, number * PAGE,
                   page_bytes (o, number)) < 0
        || memcmp (before, page->bytes, page_bytes (o, number)) != 0);
}

bool
overlay_next_change (struct pmem *overlay, uint64_t at, uint64_t limit,
                     struct range *change)
{
  struct overlay *o = (struct overlay *) overlay;
  uint64_t number, end;

  assert (overlay->ops == &overlay_ops && limit >= PAGE);
  if (o->first > o->last)
    return false;
  for (number = MAX (at / PAGE, o->first);
       number <= o->last && !is_changed (o, number); number++)
    ;
  if (number > o->last)
    return false;
  for (end = number + 1; (end - number) < limit / PAGE && is_changed (o, end);
       end++)
    ;
  change->start = number * PAGE;
  change->length = MIN (end * PAGE, overlay->size) - change->start;
  return true;
}
