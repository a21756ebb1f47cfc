/* SPDX-License-Identifier: BSD-3-Clause */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tool/offline.h"
#include "tool/picture.h"

#define COLUMNS 64u
#define MAX_SQUARES (COLUMNS * 16)
#define SIDE 13                 /* of a square; GAP between two */
#define GAP 2
#define LEFT 20
#define PICTURE_WIDTH (2 * LEFT + COLUMNS * (SIDE + GAP))

enum part { PART_LOST, PART_DIRTY, PART_CLEAN, PART_SETS, PART_DEAD, PARTS };

static const struct {
  const char *colour, *name;
} parts[PARTS] = {
  [PART_LOST] = { "#000000", "lost, or damaged" },
  [PART_DIRTY] = { "#d1495b", "dirty" },
  [PART_CLEAN] = { "#3c7fb1", "clean" },
  [PART_SETS] = { "#8d6cab", "record sets" },
  [PART_DEAD] = { "#b9b9b9", "overwritten" },
};

struct square {
  double part[PARTS];           /* bytes */
  double bytes;                 /* that it stands for */
};

/* Squares in the order of the disk or device; BYTES is what each stands for. */
struct squares {
  struct square *square;
  unsigned count;
  uint64_t bytes;
};

static int
squares_make (struct squares *s, uint64_t total, uint64_t unit)
{
  const uint64_t units = (total + unit - 1) / unit;
  const uint64_t each = MAX ((units + MAX_SQUARES - 1) / MAX_SQUARES,
                             UINT64_C (1));

  s->bytes = each * unit;
  s->count = (units + each - 1) / each;
  s->square = calloc (s->count + 1, sizeof *s->square);
  if (s->square == NULL)
    return -ENOMEM;
  for (unsigned i = 0; i < s->count; i++)
    s->square[i].bytes = MIN (s->bytes, total - i * s->bytes);
  return 0;
}

static void
fill_range (struct squares *s, struct range range, enum part part)
{
  while (range.length > 0) {
    const uint64_t i = range.start / s->bytes;
    const uint64_t n = MIN (range.length, s->bytes - range.start % s->bytes);

    if (i >= s->count)
      return;
    s->square[i].part[part] += n;
    range.start += n;
    range.length -= n;
  }
}

static void
draw_text (FILE *file, double y, unsigned size, const char *text)
{
  fprintf (file, "<text x=\"%d\" y=\"%.1f\" font-size=\"%u\">", LEFT, y, size);
  for (; *text; text++)
    switch (*text) {
    case '<': fputs ("&lt;", file); break;
    case '>': fputs ("&gt;", file); break;
    case '&': fputs ("&amp;", file); break;
    default: fputc (*text, file);
    }
  fputs ("</text>\n", file);
}

static void
draw_rect (FILE *file, double x, double y, double width, double height,
           const char *colour)
{
  fprintf (file, "<rect x=\"%.1f\" y=\"%.2f\" width=\"%.1f\" height=\"%.2f\" "
           "fill=\"%s\"/>\n", x, y, width, height, colour);
}

/* Filled from the bottom; what there is at all can be seen. */
static void
draw_square (FILE *file, const struct square *square, double x, double y)
{
  double bottom = y + SIDE;

  draw_rect (file, x, y, SIDE, SIDE, "#eeeeee");
  for (unsigned i = 0; i < PARTS; i++) {
    double height = SIDE * square->part[i] / square->bytes;

    if (square->part[i] == 0)
      continue;
    height = MIN (MAX (height, 1.0), bottom - y);
    bottom -= height;
    draw_rect (file, x, bottom, SIDE, height, parts[i].colour);
  }
}

static double
draw_squares (FILE *file, const struct squares *s, double y)
{
  for (unsigned i = 0; i < s->count; i++)
    draw_square (file, &s->square[i],
                 LEFT + i % COLUMNS * (SIDE + GAP),
                 y + i / COLUMNS * (SIDE + GAP));
  return y + (s->count + COLUMNS - 1) / COLUMNS * (SIDE + GAP);
}

static double
draw_legend (FILE *file, double y)
{
  double x = LEFT;

  for (unsigned i = 0; i < PARTS; i++) {
    draw_rect (file, x, y, SIDE, SIDE, parts[i].colour);
    fprintf (file, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"13\">%s</text>\n",
             x + SIDE + 5, y + SIDE - 2, parts[i].name);
    x += 150;
  }
  draw_rect (file, x, y, SIDE, SIDE, "#eeeeee");
  fprintf (file, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"13\">free, or not "
           "cached</text>\n", x + SIDE + 5, y + SIDE - 2);
  return y + SIDE + 12;
}

static int
gather_device (struct snapshot *snap, struct squares *s)
{
  const struct geometry *g = &snap->engine.superblock.geometry;
  CLEANUP_FREE struct segment_use *use = snapshot_use (snap);
  int r = use ? squares_make (s, g->segment_count * g->segment_size,
                              g->segment_size) : -EIO;

  for (uint32_t id = 0; r == 0 && id < g->segment_count; id++) {
    struct square *square = &s->square[id / (s->bytes / g->segment_size)];

    if (snap->engine.segments.segments[id].damaged)
      square->part[PART_LOST] += g->segment_size;
    square->part[PART_DIRTY] += use[id].dirty;
    square->part[PART_CLEAN] += use[id].clean;
    square->part[PART_SETS] += use[id].sets;
    square->part[PART_DEAD] += use[id].dead;
  }
  return r;
}

static int
gather_disk (struct snapshot *snap, struct squares *s)
{
  const struct superblock *sb = &snap->engine.superblock;
  struct index_cursor cursor;
  struct extent extent;
  int r = squares_make (s, sb->bound ? sb->backing_size : 0, 4096);

  if (r < 0)
    return r;
  snapshot_walk_start (&cursor, snap);
  while (snapshot_walk_next (&cursor, &extent))
    fill_range (s, extent.range, extent.kind == EXTENT_LOST ? PART_LOST
                : snapshot_is_dirty (snap, &extent) ? PART_DIRTY : PART_CLEAN);
  return 0;
}

static void
draw (FILE *file, const struct squares *on_device,
      const struct squares *on_disk, const char *device)
{
  char line[256], size[SIZE_TEXT];
  double y = 30;

  draw_text (file, y, 18, device);
  y = draw_legend (file, y + 14);
  snprintf (line, sizeof line, "Cache device: segments; each square is %s",
            size_text (size, on_device->bytes));
  draw_text (file, y + 20, 14, line);
  y = draw_squares (file, on_device, y + 30);
  if (on_disk->count > 0)
    snprintf (line, sizeof line, "Disk: each square is %s",
              size_text (size, on_disk->bytes));
  else
    snprintf (line, sizeof line, "Disk: none yet");
  draw_text (file, y + 20, 14, line);
  draw_squares (file, on_disk, y + 30);
}

static unsigned
rows (const struct squares *s)
{
  return (s->count + COLUMNS - 1) / COLUMNS;
}

int
picture_write (FILE *file, struct snapshot *snap, const char *device)
{
  CLEANUP_FREE char *name = printable ((const uint8_t *) device,
                                       strlen (device));
  struct squares on_device = { 0 }, on_disk = { 0 };
  int r = gather_device (snap, &on_device);

  if (r == 0)
    r = gather_disk (snap, &on_disk);
  if (r == 0) {
    const unsigned height = 180
      + (rows (&on_device) + rows (&on_disk)) * (SIDE + GAP);

    fprintf (file, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" "
             "height=\"%u\" font-family=\"sans-serif\">\n",
             PICTURE_WIDTH, height);
    fprintf (file, "<rect width=\"%u\" height=\"%u\" fill=\"#ffffff\"/>\n",
             PICTURE_WIDTH, height);
    draw (file, &on_device, &on_disk, name ? name : "");
    fputs ("</svg>\n", file);
  }
  free (on_device.square);
  free (on_disk.square);
  return r < 0 ? r : ferror (file) ? -EIO : 0;
}
