/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "base/mutation.h"
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
  }
  return "?";
}

static enum twin_verdict
read_copy (struct twin *twin, struct pmem *pmem, int copy, void *content)
{
  struct media_twin header;
  const uint8_t *bytes = content;

  if (twin->at[copy] > pmem->size
      || pmem->size - twin->at[copy] < twin->bytes
      || pmem_read (pmem, content, twin->at[copy], twin->bytes) < 0)
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
      || le64_get (header.at) != twin->at[copy])
    return TWIN_CORRUPT;
  twin->copy_sequence[copy] = le64_get (header.sequence);
  return TWIN_OK;
}

bool
twin_read (struct twin *twin, struct pmem *pmem, void *content)
{
  _Alignas (8) uint8_t buf[2][TWIN_MAX_BYTES];
  int newest = -1;

  assert (twin->bytes <= TWIN_MAX_BYTES);
  for (int copy = 0; copy < 2; copy++) {
    twin->copy_sequence[copy] = 0;
    twin->verdict[copy] = read_copy (twin, pmem, copy, buf[copy]);
    if (twin->verdict[copy] == TWIN_OK
        && (newest < 0 || twin->copy_sequence[copy]
            > twin->copy_sequence[newest]))
      newest = copy;
  }
  if (newest < 0)
    return false;
  twin->sequence = twin->copy_sequence[newest];
  memcpy (content, buf[newest], twin->bytes);
  return true;
}

static int
write_copy (struct twin *twin, struct pmem *pmem, int copy,
            uint64_t sequence, void *content)
{
  struct media_twin header = {
    .magic = le64_of (twin->magic),
    .sequence = le64_of (sequence),
    .at = le64_of (twin->at[copy]),
  };
  int r;

  memcpy (content, &header, sizeof header);
  header.checksum = le64_of (checksum (twin, content));
  memcpy (content, &header, sizeof header);
  r = pmem_copy (pmem, twin->at[copy], content, twin->bytes);
  if (MUTATION (T1_IN_PLACE) && copy == 0)
    return r;
  return r < 0 ? r : pmem_fence (pmem);
}

int
twin_write_new (struct twin *twin, struct pmem *pmem, void *content)
{
  int r = 0;

  for (int copy = 0; copy < 2 && r == 0; copy++)
    r = write_copy (twin, pmem, copy, 1, content);
  return r;
}

int
twin_update (struct twin *twin, struct pmem *pmem, void *content)
{
  const uint64_t sequence = twin->sequence + 1;
  int first = 0;

  /* The newest valid copy is never the first to be written over. */
  if (twin->verdict[0] == TWIN_OK
      && (twin->verdict[1] != TWIN_OK
          || twin->copy_sequence[1] < twin->copy_sequence[0]))
    first = 1;
  if (MUTATION (T1_NEWEST_FIRST))
    first = !first;

  for (int i = 0; i < 2; i++) {
    const int copy = first ^ i;
    int r;

    /* Crash here: this copy torn, the other whole: for i = 0 it still says
     * what was, for i = 1 already what will be. */
    r = write_copy (twin, pmem, copy, sequence, content);
    if (r == 0 && !(MUTATION (T1_IN_PLACE) && i == 0))
      r = pmem_sync (pmem);
    if (r < 0) {
      /* Perhaps torn now: the first to be rewritten next time.  For i = 0
       * stop, as the other copy is the last that is whole.  For i = 1
       * the update has happened, without a second copy. */
      twin->verdict[copy] = TWIN_UNREADABLE;
      if (i == 0)
        return r;
      break;
    }
    twin->verdict[copy] = TWIN_OK;
    twin->copy_sequence[copy] = sequence;
  }
  twin->sequence = sequence;
  return 0;
}
