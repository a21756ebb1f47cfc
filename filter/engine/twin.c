/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#include "base/arith.h"
#include "base/mutation.h"
#include "base/report.h"
#include "engine/twin.h"

static uint64_t
checksum (const struct twin *twin, const void *content)
{
  _Alignas (8) uint8_t buf[TWIN_MAX_BYTES];

  memcpy (buf, content, twin->bytes);
  memset (buf + offsetof (struct media_twin, checksum), 0, sizeof (le64));
  return XXH3_64bits_withSeed (buf, twin->bytes, twin->seed);
}

const char *
twin_verdict_name (enum twin_verdict verdict)
{
  switch (verdict) {
  case TWIN_OK: return "valid";
  case TWIN_BLANK: return "blank";
  case TWIN_FOREIGN: return "not ours";
  case TWIN_CORRUPT: return "checksum wrong";
  case TWIN_UNREADABLE: return "media error";
  case TWIN_OVERRULED: return "older than what is damaged";
  }
  return "?";
}

static uint64_t
place_at (const struct twin *twin, int place)
{
  return place < 2 ? twin->at[place]
    : twin->at[place - 2] + twin->spare;
}

/* What the place is known to say; 0: nothing. */
static uint64_t
known (const struct twin *twin, int place)
{
  return twin->verdict[place] == TWIN_OK ? twin->place_sequence[place] : 0;
}

static bool
has (const struct twin *twin, int place, uint64_t sequence)
{
  return twin->verdict[place] == TWIN_OK
    && twin->place_sequence[place] == sequence;
}

static uint64_t
newest_of (const struct twin *twin, int copy)
{
  return MAX (known (twin, copy), known (twin, TWIN_SPARE (copy)));
}

static enum twin_verdict
read_place (struct twin *twin, struct pmem *pmem, int place, void *content)
{
  const uint64_t at = place_at (twin, place);
  struct media_twin header;
  const uint8_t *bytes = content;

  if (at > pmem->size
      || pmem->size - at < twin->bytes
      || pmem_read (pmem, content, at, twin->bytes) < 0)
    return TWIN_UNREADABLE;
  memcpy (&header, content, sizeof header);
  if (le64_get (header.magic) != twin->magic) {
    const le64 magic = le64_of (twin->magic);
    size_t i;

    for (i = 0; i < twin->bytes && bytes[i] == 0; i++)
      ;
    if (i == twin->bytes)
      return TWIN_BLANK;
    /* Nothing but the magic number is wrong: that is damage. */
    memcpy (content, &magic, sizeof magic);
    return le64_get (header.checksum) == checksum (twin, content)
      ? TWIN_CORRUPT : TWIN_FOREIGN;
  }
  if (le64_get (header.checksum) != checksum (twin, content)
      || le64_get (header.at) != at)
    return TWIN_CORRUPT;
  twin->place_sequence[place] = le64_get (header.sequence);
  return TWIN_OK;
}

/* A side that goes on alone has two places, of which a crash tears at most one.
 * If both are damaged, what the other side says was perhaps left behind long
 * ago.  A spare with its magic number tells that case from a page that was
 * damaged while its spare was blank. */
static bool
lost_alone (const struct twin *twin, int copy)
{
  return twin->spare != 0 && twin->verdict[copy] != TWIN_OK
    && twin->verdict[TWIN_SPARE (copy)] == TWIN_CORRUPT;
}

bool
twin_read (struct twin *twin, struct pmem *pmem, void *content)
{
  _Alignas (8) uint8_t buf[TWIN_MAX_BYTES];
  uint64_t newest = 0;
  bool found = false;

  assert (twin->bytes <= TWIN_MAX_BYTES);
  for (int place = 0; place < (twin->spare ? TWIN_PLACES : 2); place++) {
    twin->place_sequence[place] = 0;
    twin->verdict[place] = read_place (twin, pmem, place, buf);
    if (twin->verdict[place] == TWIN_OK
        && (!found || twin->place_sequence[place] > newest)) {
      found = true;
      newest = twin->place_sequence[place];
      memcpy (content, buf, twin->bytes);
    }
  }
  for (int copy = 0; copy < 2 && found; copy++)
    if (lost_alone (twin, copy)) {
      if (twin->verdict[!copy] == TWIN_OK)
        twin->verdict[!copy] = TWIN_OVERRULED;
      return false;
    }
  twin->sequence = newest;
  return found;
}

static int
write_place (struct twin *twin, struct pmem *pmem, int place,
             uint64_t sequence, void *content)
{
  struct media_twin header = {
    .magic = le64_of (twin->magic),
    .sequence = le64_of (sequence),
    .at = le64_of (place_at (twin, place)),
  };
  int r;

  memcpy (content, &header, sizeof header);
  header.checksum = le64_of (checksum (twin, content));
  memcpy (content, &header, sizeof header);
  r = pmem_copy (pmem, place_at (twin, place), content, twin->bytes);
  if (MUTATION (T1_IN_PLACE) && place == 0)
    return r;
  return r < 0 ? r : pmem_fence (pmem);
}

static int
blank_place (struct twin *twin, struct pmem *pmem, int place)
{
  static const uint8_t zeros[TWIN_MAX_BYTES];
  int r;

  r = pmem_copy (pmem, place_at (twin, place), zeros, twin->bytes);
  return r < 0 ? r : pmem_fence (pmem);
}

int
twin_write_new (struct twin *twin, struct pmem *pmem, void *content)
{
  int r = 0;

  for (int copy = 0; copy < 2 && r == 0; copy++) {
    r = write_place (twin, pmem, copy, 1, content);
    if (r == 0 && twin->spare != 0)
      r = blank_place (twin, pmem, TWIN_SPARE (copy));
  }
  return r;
}

/* Durable when it returns 0.  After an error perhaps torn. */
static int
store (struct twin *twin, struct pmem *pmem, int place, uint64_t sequence,
       void *content)
{
  int r = write_place (twin, pmem, place, sequence, content);

  if (r == 0 && !(MUTATION (T1_IN_PLACE) && place == 0))
    r = pmem_sync (pmem);
  twin->verdict[place] = r < 0 ? TWIN_UNREADABLE : TWIN_OK;
  twin->place_sequence[place] = sequence;
  return r;
}

static int
wipe_spare (struct twin *twin, struct pmem *pmem, int copy)
{
  const int place = TWIN_SPARE (copy);
  int r = 0;

  if (twin->verdict[place] == TWIN_BLANK)
    return 0;
  if (!MUTATION (SPARE_NOT_WIPED)) {
    r = blank_place (twin, pmem, place);
    if (r == 0)
      r = pmem_sync (pmem);
  }
  twin->verdict[place] = r < 0 ? TWIN_UNREADABLE : TWIN_BLANK;
  return r;
}

/* Write COPY's home and leave its spare blank.  The newest content is on the
 * other side. */
static int
write_home (struct twin *twin, struct pmem *pmem, int copy,
            uint64_t sequence, void *content)
{
  /* At each instant the home or the spare is whole, or what is torn would look
   * like the loss of a side that was alone. */
  const bool spare_first = twin->verdict[copy] == TWIN_OK;
  int r;

  /* Crash here: the spare torn, the home still says what was. */
  if (spare_first && (r = wipe_spare (twin, pmem, copy)) < 0)
    return r;
  /* Crash here: the home torn; the other side says what was, or already what
   * will be.  So does the spare, if it is not blank. */
  if ((r = store (twin, pmem, copy, sequence, content)) < 0)
    return r;
  /* Crash here: the spare torn or still there, and older than the home. */
  return spare_first ? 0 : wipe_spare (twin, pmem, copy);
}

/* Write COPY's home and its spare: the other side is of no use. */
static int
write_alone (struct twin *twin, struct pmem *pmem, int copy,
             uint64_t sequence, void *content)
{
  int place[2] = { TWIN_SPARE (copy), copy };

  /* The newest is never the first to be written over. */
  if ((known (twin, place[0]) > known (twin, place[1]))
      != MUTATION (SPARE_OVER_NEWEST)) {
    place[0] = copy;
    place[1] = TWIN_SPARE (copy);
  }
  for (int i = 0; i < 2; i++) {
    int r;

    if (has (twin, place[i], sequence))
      continue;
    /* Crash here: this place torn, the other whole: for i = 0 it still says
     * what was, for i = 1 already what will be. */
    r = store (twin, pmem, place[i], sequence, content);
    if (r < 0 && !has (twin, place[!i], sequence))
      return r;
  }
  return 0;
}

static void
note_refused (struct twin *twin, int copy, int error)
{
  twin->refused[!copy] = false;
  if (twin->refused[copy])
    return;
  twin->refused[copy] = true;
  if (twin->stats)
    stats_add (twin->stats, STAT_media_errors, 1);
  if (twin->what)
    report (REPORT_ERROR, "%s: copy %c (at %" PRIu64 " of the cache device) "
            "cannot be written (%s); going on with copy %c and the spare "
            "place beside it", twin->what, 'A' + copy, twin->at[copy],
            strerror (-error), 'A' + !copy);
}

/* What is about to become the last copy must still be one. */
static void
look_again (struct twin *twin, struct pmem *pmem)
{
  _Alignas (8) uint8_t buf[TWIN_MAX_BYTES];

  for (int place = 0; place < TWIN_PLACES; place++) {
    const uint64_t sequence = twin->place_sequence[place];

    if (twin->verdict[place] != TWIN_OK)
      continue;
    twin->verdict[place] = read_place (twin, pmem, place, buf);
    if (twin->place_sequence[place] != sequence)
      twin->verdict[place] = TWIN_CORRUPT;
  }
}

int
twin_update (struct twin *twin, struct pmem *pmem, void *content)
{
  /* A number that was tried is never used for anything else: where that store
   * failed it may have arrived. */
  const uint64_t sequence = MAX (twin->sequence, twin->last_tried) + 1;
  int first, bad, error, r;

  look_again (twin, pmem);
  /* The newest valid copy is never the first to be written over. */
  first = twin->a_last || newest_of (twin, 0) > newest_of (twin, 1);
  if (MUTATION (T1_NEWEST_FIRST))
    first = !first;
  twin->last_tried = sequence;

  /* Crash while the first side is written: the other side says what was. */
  bad = first;
  error = write_home (twin, pmem, first, sequence, content);
  if (error == 0) {
    /* Crash from here on: the first side says what will be. */
    bad = !first;
    error = write_home (twin, pmem, bad, sequence, content);
  }
  if (error < 0) {
    /* Without a spare, and if it was the first, stop: the other copy is the
     * last that is whole. */
    r = twin->spare ? write_alone (twin, pmem, !bad, sequence, content)
      : error;
    if (r < 0 && bad == first)
      return r;
    if (twin->spare)
      note_refused (twin, bad, error);
  }
  else
    twin->refused[0] = twin->refused[1] = false;
  twin->sequence = sequence;
  return 0;
}
