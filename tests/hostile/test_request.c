/* SPDX-License-Identifier: BSD-3-Clause */

/* Requests of the control socket, damaged at random. */

#include <config.h>

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hostile/fuzz_request.h"
#include "support/scale.h"
#include "support/seed.h"

#define ROUNDS 50000            /* at a TEST_SCALE of 100 */
#define MAX_LENGTH 2048

static const char *const good[] = {
  "{\"id\":1,\"command\":\"status\"}",
  "{\"id\":\"x\",\"command\":\"status\",\"text\":true}",
  "{\"id\":null,\"command\":\"metrics\"}",
  "{\"id\":2,\"command\":\"map\",\"cells\":100}",
  "{\"command\":\"settings\"}",
  "{\"command\":\"set\",\"key\":\"gc-percent\",\"value\":\"70\"}",
  "{\"command\":\"set\",\"key\":\"writeback-order\",\"value\":\"batch\"}",
  "{\"id\":3,\"command\":\"flush\"}",
  "{\"id\":4,\"command\":\"drain\",\"timeout_ms\":10}",
};

/* What breaks readers of JSON. */
static const char *const pieces[] = {
  "{", "}", "[", "]", "\"", "\\", ":", ",", "null", "true", "-", "0", "1e999",
  "18446744073709551616", "-9223372036854775809", "\\u0000", "\\ud800",
  "\\udc00", "\xff", "\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "[[[[[[[[[[",
  "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":", "\"id\":1,", "\"command\":\"drain\",",
  "\"text\":true", "/*", "*/", "//", "NaN", "Infinity", "-Infinity", "\t",
  "\r", "%s%n", "\"value\":\"99999999999999999999\"",
};

#define COUNT(array) (sizeof (array) / sizeof (array)[0])

static size_t
insert (char *line, size_t length, size_t at, const char *piece, size_t n)
{
  if (length + n > MAX_LENGTH)
    return length;
  memmove (line + at + n, line + at, length - at);
  memcpy (line + at, piece, n);
  return length + n;
}

static size_t
damage (char *line, size_t length, uint64_t *random)
{
  const size_t at = random_below (random, length + 1);
  const char *piece;
  size_t n;

  switch (random_below (random, 5)) {
  case 0:                       /* a bit */
    if (at < length)
      line[at] ^= 1 << random_below (random, 8);
    return length;
  case 1:                       /* the end is missing */
    return at;
  case 2:                       /* something in the middle is missing */
    n = random_below (random, length - at + 1);
    memmove (line + at, line + at + n, length - at - n);
    return length - n;
  case 3:                       /* a part of another one */
    piece = good[random_below (random, COUNT (good))];
    piece += random_below (random, strlen (piece));
    return insert (line, length, at, piece,
                   random_below (random, strlen (piece) + 1));
  default:
    piece = pieces[random_below (random, COUNT (pieces))];
    return insert (line, length, at, piece, strlen (piece));
  }
}

int
main (int argc, char *argv[])
{
  uint64_t rounds;
  uint64_t random;

  seed_choose (argc, argv);
  random = seed;
  rounds = scaled (ROUNDS, 1);
  printf ("1..1\n");
  fflush (stdout);
  for (uint64_t i = 0; i < rounds; i++) {
    char line[MAX_LENGTH];
    const char *from = good[random_below (&random, COUNT (good))];
    size_t length = strlen (from);
    uint8_t *exact;

    memcpy (line, from, length);
    for (uint64_t n = random_below (&random, 6); n > 0; n--)
      length = damage (line, length, &random);
    /* So that reading behind it is noticed. */
    exact = malloc (length ? length : 1);
    memcpy (exact, line, length);
    LLVMFuzzerTestOneInput (exact, length);
    free (exact);
  }
  printf ("ok 1 - %" PRIu64 " damaged requests\n", rounds);
  return EXIT_SUCCESS;
}
