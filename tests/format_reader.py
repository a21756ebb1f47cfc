#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause

"""A second reader of the cache device, written from docs/FORMAT.md alone.

  format_reader.py info DEVICE             what the metadata says
  format_reader.py json DEVICE             the same as pcachectl inspect --json
                                           --records, as far as the page goes;
                                           always as with --rescue
  format_reader.py map DEVICE              what is in the cache: one line
                                           "offset length kind" per run; kind
                                           is data, zero, lost or hole
  format_reader.py image DEVICE BACKING OUT
                                           the disk as the cache serves it:
                                           cached ranges over BACKING's bytes

It shares no code with the filter, so that the page and the engine are held
against each other.  It only reads, takes no lock and must not run while
nbdkit uses the device.  --rescue goes on after damage that may hide dirty
data.  Numbers in brackets are the rules of the page.

Exit code: 0; 1 the device is refused; 2 wrong usage; 3 (image) some dirty
data could not be read: those bytes are left as zeros in OUT.
"""

import argparse
import bisect
import ctypes
import ctypes.util
import heapq
import json
import mmap
import struct
import sys

LIMIT = 2**63 - 1               # epochs, sequences, generations stay below
CHUNK = 1 << 20
SET_HEADER = 64
RECORD = 48
MAX_RECORDS = 128
MAX_DATA = 65536

FREE, OPEN, SEALED = 1, 2, 3
DATA, ZERO, TRIM, LOST, HOLE = 1, 2, 3, 4, 5
KIND_NAMES = {DATA: 'data', ZERO: 'zero', TRIM: 'zero', LOST: 'lost'}


def load_xxhash():
    for name in ('libxxhash.so.0', ctypes.util.find_library('xxhash')):
        try:
            lib = ctypes.CDLL(name) if name else None
        except OSError:
            lib = None
        if lib:
            break
    else:
        sys.exit('libxxhash.so.0 not found (Debian: libxxhash0)')
    lib.XXH3_64bits_withSeed.restype = ctypes.c_uint64
    lib.XXH3_64bits_withSeed.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
    return lib


_xxhash = load_xxhash()


def xxh3(data, seed=0):
    """XXH3, 64 bits; seed 0 is the same as no seed."""
    return _xxhash.XXH3_64bits_withSeed(bytes(data), len(data), seed)


def xxh3_without(data, at, seed):
    """The same of data with the 8 bytes at AT taken as zero."""
    return xxh3(data[:at] + bytes(8) + data[at + 8:], seed)


def round_up(n, alignment):
    return -(-n // alignment) * alignment


def set_bytes(records):
    return round_up(SET_HEADER + records * RECORD, 64)


class Refused(Exception):
    pass


class Twin:
    """A block that exists twice.  SPARE: from each copy to the place beside
    it that is used when the other copy cannot be written."""

    def __init__(self, device, at, size, magic, seed, spare=None):
        self.content = None
        self.sequence = -1
        self.size, self.magic, self.seed = size, magic, seed
        self.verdict = [self.look(device, place) for place in at]   # [T1]
        if spare is None:
            return
        beside = [self.look(device, place + spare) for place in at]
        for copy in (0, 1):                                     # [T5]
            if self.verdict[copy] != 'valid' and beside[copy] == 'damaged':
                self.content = None
                if self.verdict[1 - copy] == 'valid':
                    self.verdict[1 - copy] = 'older than what is damaged'

    def look(self, device, at):
        data = device[at:at + self.size]
        found, checksum, sequence, own = struct.unpack_from('<8sQQQ', data)
        right = checksum == xxh3_without(self.magic + data[8:], 8, self.seed)
        if found != self.magic:
            if right:
                return 'damaged'
            return 'blank' if data.count(0) == self.size else 'not ours'
        if not right or own != at:
            return 'damaged'
        if sequence > self.sequence:                            # [T2]
            self.sequence, self.content = sequence, data
        return 'valid'


class Segment:
    pass


class Checkpoint:
    pass


class Record:
    __slots__ = ('start', 'length', 'sequence', 'checksum', 'at', 'kind',
                 'clean', 'has_checksum')

    def end(self):
        return self.start + self.length


class Set:
    __slots__ = ('ordinal', 'start', 'epoch', 'durable_through',
                 'durable_sets', 'records')


class Cache:
    def __init__(self, device, rescue=False, log=lambda text: None):
        self.device = device
        self.rescue = rescue
        self.needs_rescue = False
        self.hides_dirty = False
        self.log = log
        self.damage = []
        self.read_superblock()
        self.read_control()
        self.read_segments()
        self.survey()
        self.replay()

    # Metadata -----------------------------------------------------------

    def read_superblock(self):
        device = self.device
        if len(device) < 1 << 20:
            raise Refused('too small to hold a cache')
        if device[0:8] == b'PCACHEfm':                          # [S1]
            raise Refused('formatting was interrupted')
        twin = Twin(device, (0, 524288), 1432, b'PCACHEsb', 0)
        if twin.content is None:
            raise Refused('no superblock: ' + ', '.join(twin.verdict))
        self.superblock = twin
        (version, self.flags, self.compat, self.ro_compat, self.incompat,
         self.uuid, self.instance, self.device_size, self.segment_size,
         self.segment_count, self.capacity, table_a, table_b,
         self.first_segment, self.backing_size, export_length, id_length) = \
            struct.unpack_from('<IIQQQ16sQQQIIQQQQII', twin.content, 32)
        if version != 1:                                        # [S3]
            raise Refused('format version %d' % version)
        if self.incompat:                                       # [S4]
            raise Refused('incompatible features %#x' % self.incompat)
        size, count, capacity = (self.segment_size, self.segment_count,
                                 self.capacity)
        table = round_up(capacity * 256, 65536)
        if not (1 << 20 <= size <= 1 << 30 and size & (size - 1) == 0   # [S5]
                and 4 <= count <= capacity <= 2**31 - 1
                and table_a == 1 << 20 and table_b == table_a + table
                and self.first_segment == round_up(table_b + table, 1 << 20)
                and self.device_size == self.first_segment + count * size
                and self.backing_size <= LIMIT
                and export_length <= 1024 and id_length <= 256):
            raise Refused('the geometry makes no sense')
        if self.device_size > len(device):                      # [S6]
            raise Refused('the device is shorter than the cache')
        self.table = (table_a, table_b)
        self.bound = self.flags & 1 != 0
        self.export = twin.content[152:152 + export_length]
        self.backing_id = twin.content[1176:1176 + id_length]

    def read_control(self):
        twin = Twin(self.device, (4096, 528384), 256, b'PCACHEcb',
                    self.instance, 2048)
        if twin.content is None:                                # [C1]
            raise Refused('no control block: ' + ', '.join(twin.verdict))
        self.control = twin
        self.tail, self.written_back, self.gc_percent, flags = \
            struct.unpack_from('<QQII', twin.content, 32)
        self.lost = bool(flags & 1)
        self.tail_on_media = self.tail
        self.checkpoint = Checkpoint()
        c = self.checkpoint
        (c.layout, c.regions, c.digest, c.checksum, c.entries, c.sequence,
         c.epoch, c.uncertain_through) = \
            struct.unpack_from('<IIQQQQQQ', twin.content, 56)
        if self.tail >= LIMIT or self.written_back >= LIMIT:    # [C2]
            raise Refused('the marks of the control block make no sense')

    def read_segments(self):
        self.segments = []
        for number in range(self.segment_count):
            s = Segment()
            s.id = number
            s.base = self.first_segment + number * self.segment_size
            s.twin = Twin(self.device, [t + number * 256 for t in self.table],
                          120, b'PCACHEsg', self.instance, 128)
            s.valid = False
            if s.twin.content is not None:
                (own, s.state, s.generation, s.sets, flags, s.epoch_max,
                 s.sequence_min, s.sequence_max) = \
                    struct.unpack_from('<IIQIIQQQ', s.twin.content, 32)
                s.unordered = flags & 1 != 0
                s.valid = (own == number and 0 < s.generation < LIMIT  # [G2]
                           and (s.state in (FREE, OPEN)
                                or s.state == SEALED
                                and s.sets <= self.segment_size // 128
                                and s.epoch_max < LIMIT
                                and s.sequence_min <= s.sequence_max < LIMIT))
            self.segments.append(s)

    # The checkpoint -----------------------------------------------------

    def checkpoint_is_current(self):                            # [Q1]
        digest = self.instance
        for s in self.segments:
            if not s.valid or s.state == OPEN:
                return False
            header = s.twin.content
            flags = struct.pack('<I', s.unordered)
            digest = xxh3(header[16:24] + header[32:52] + flags
                          + header[56:80], digest)
        return (self.checkpoint.layout == 1 and not self.lost
                and digest == self.checkpoint.digest)

    def checkpoint_entries(self):
        """All entries of a current one; or None if a piece is damaged."""
        c = self.checkpoint
        left, before, ordinal, entries = c.entries, c.digest, 0, []
        places = (s.base + at for s in self.segments if s.state == FREE
                  for at in range(0, self.segment_size, 65536))
        while left > 0:
            at = next(places, None)
            if at is None:
                return None
            count = min(left, 2047)
            data = self.device[at:at + 32 + count * 32]
            magic, checksum, previous, number, found = \
                struct.unpack_from('<8sQQII', data)
            if ((magic, previous, number, found)
                    != (b'PCACHEck', before, ordinal, count)
                    or checksum != xxh3_without(data, 8, self.instance)):
                return None
            entries += struct.iter_unpack('<QQQIHH', data[32:])
            left, before, ordinal = left - count, checksum, ordinal + 1
        return entries if before == c.checksum else None

    def checkpoint_extents(self):
        """(start, end, name), sorted, of what each region says of its own;
        the name is what extent_name gives.  None: damaged."""
        entries = self.checkpoint_entries()
        extents, region = [], None
        for logical, proof, place, length, record_length, delta in \
                entries or []:
            if length == 0:
                region = logical
                continue
            kind, at = place & 3, place & ~63
            name = ((kind, at, record_length + 1, logical - delta,
                     proof if place & 4 else None) if kind == DATA
                    else (kind, proof))
            start, end = logical, logical + length
            while start < end:
                stop = min(end, (start // CHUNK + 1) * CHUNK)
                if self.region_of(start // CHUNK) == region:
                    extents.append((start, stop, name))
                start = stop
        return None if entries is None else sorted(extents)

    def region_of(self, chunk):
        return (chunk * 0x9e3779b97f4a7c15 % 2**64 // 2
                // (2**63 // self.checkpoint.regions))

    def replayed_extents(self):
        """The same of the replay, cut at each MiB; and is it dirty?"""
        for start, end, r, dirty in self.extents:
            name = ((r.kind, r.at, r.length, r.start,
                     r.checksum if r.has_checksum else None)
                    if r.kind == DATA else (r.kind, r.sequence))
            while start < end:
                stop = min(end, (start // CHUNK + 1) * CHUNK)
                yield start, stop, name, dirty
                start = stop

    def judge_checkpoint(self):
        """What it is worth, in words; Refused if it counts and says something
        wrong."""
        if self.checkpoint.layout == 0:
            return 'none'
        if not self.checkpoint_is_current():
            return 'not current'
        extents = self.checkpoint_extents()
        if extents is None:
            return 'damaged'
        i = matched = 0
        for start, end, name, dirty in self.replayed_extents():
            while start < end:
                while i < len(extents) and extents[i][1] <= start:
                    i += 1
                if i < len(extents) and extents[i][0] <= start:
                    if extents[i][2] != name:
                        raise Refused('the checkpoint says %r of %d, the log '
                                      '%r' % (extents[i][2], start, name))
                    matched += min(end, extents[i][1]) - start
                    start = min(end, extents[i][1])
                    continue
                if (dirty or self.checkpoint.uncertain_through
                        <= self.tail_on_media):
                    raise Refused('the checkpoint has nothing of %d, the log '
                                  'has %r' % (start, name))
                start = min([end] + [e[0] for e in extents[i:i + 1]])
        if matched != sum(e[1] - e[0] for e in extents):
            raise Refused('the checkpoint has more than the log')
        return 'as the log, %d extents' % len(extents)

    # Sets ---------------------------------------------------------------

    def read_record(self, segment, set_start, data):
        r = Record()
        (r.start, r.length, r.sequence, r.checksum, place, r.kind, flags) = \
            struct.unpack_from('<QQQQIBB', data)
        r.clean = flags & 1 != 0
        r.has_checksum = flags & 2 != 0
        r.at = segment.base + place
        disk = self.backing_size if self.bound else 0
        if (flags & ~3 or not 0 < r.sequence < LIMIT            # [R1]..[R3]
                or r.length == 0 or r.end() > disk):
            return None
        if r.kind in (DATA, LOST):                              # [R4], [R5]
            if (r.length > MAX_DATA
                    or r.start // CHUNK != (r.end() - 1) // CHUNK):
                return None
        if r.kind == DATA:                                      # [R4]
            if (place % 64 != 0
                    or place + round_up(r.length, 64) > set_start):
                return None
        elif r.kind not in (ZERO, TRIM, LOST, HOLE) or r.length >= 2**32:
            return None                                         # [R5]
        if r.kind == HOLE and not r.clean:                      # [R5]
            return None
        return r

    def read_set(self, segment, end, ordinal):
        """The set that ends at END; or why there is none."""
        base = segment.base
        if not 64 <= end <= self.segment_size or end % 64 != 0:
            return 'missing'
        (magic, checksum, generation, number, offset, found, count, epoch,
         through, durable_sets) = struct.unpack_from(
             '<8sQQIIIIQQI', self.device, base + end - SET_HEADER)
        if (magic != b'PCACHEst' or generation != segment.generation    # [K1]
                or number != segment.id or offset != end - SET_HEADER
                or found != ordinal):
            return 'missing'
        size = set_bytes(count) if 1 <= count <= MAX_RECORDS else None
        if size is None or size > end:                          # [K2]
            return 'torn'
        data = self.device[base + end - size:base + end]
        if checksum != xxh3_without(data, size - SET_HEADER + 8,
                                    self.instance):
            return 'torn'
        s = Set()
        s.ordinal, s.start, s.epoch = ordinal, end - size, epoch
        s.durable_through, s.durable_sets = through, durable_sets
        if (not 0 < epoch < LIMIT or through >= epoch           # [K3]
                or durable_sets > ordinal):
            return 'nonsense'
        s.records = []
        last = 0
        for i in range(count):
            r = self.read_record(segment, s.start,
                                 data[i * RECORD:(i + 1) * RECORD])
            if r is None or r.sequence <= last:                 # [K4]
                return 'nonsense'
            last = r.sequence
            s.records.append(r)
        return s

    def walk(self, segment):
        """All sets, also behind gaps: yields (set, verdict), one of them
        None.  A verdict is a gap; after the last one the walk ends."""
        end, ordinal, sequence, epoch = self.segment_size, 0, 0, 0
        limit = segment.sets if segment.state == SEALED else 2**32

        def follows(s):
            return s.epoch >= epoch and s.records[0].sequence > sequence

        while ordinal < limit:
            s = self.read_set(segment, end, ordinal)
            if isinstance(s, Set) and not follows(s):           # [K5]
                s = 'nonsense'
            if not isinstance(s, Set):
                yield None, s
                s = self.find_later(segment, end, ordinal, limit, follows)
                if s is None:
                    return
            yield s, None
            end, ordinal, epoch = s.start, s.ordinal + 1, s.epoch
            sequence = s.records[-1].sequence

    def find_later(self, segment, end, ordinal, limit, follows):    # [W3]
        view = self.device[segment.base:segment.base + end]
        at = view.rfind(b'PCACHEst')
        while at >= 64:
            if at % 64 == 0:
                found = struct.unpack_from('<I', view, at + 32)[0]
                if ordinal < found < limit:
                    s = self.read_set(segment, at + 64, found)
                    if isinstance(s, Set) and follows(s):
                        return s
            at = view.rfind(b'PCACHEst', 0, at)
        return None

    # Which sets count ---------------------------------------------------

    def survey(self):
        used = []
        self.through = self.written_back                        # [D1]
        for s in self.segments:
            s.kept = []
            s.reach = None      # epoch, sequence number that it may hide
            if not s.valid:                                     # [G3]
                self.note_damage(s, 'its header: '
                                 + ', '.join(s.twin.verdict), None, None)
            elif s.state != FREE:                               # [G4]
                s.walked = list(self.walk(s))
                used.append(s)
                for found, _ in s.walked:
                    if found:
                        self.through = max(self.through, found.durable_through)
        for s in used:
            if s.state == SEALED:
                self.judge_sealed(s)
            else:
                self.judge_open(s)
        self.check_numbers(used)

    def check_numbers(self, used):                              # [D7]
        sets = [k for s in used for k in s.kept]
        sequence = max([self.tail_on_media]
                       + [k.records[-1].sequence for k in sets]
                       + [s.reach[1] for s in used if s.reach and s.reach[1]])
        if any(s.reach and s.reach[1] is None for s in used):
            sequence += self.segment_size
        epoch = max([self.through] + [k.epoch for k in sets]
                    + [s.reach[0] for s in used if s.reach])
        if self.hides_dirty:
            self.tail = max(self.tail, sequence)
        if max(sequence, self.tail) >= 2**62 or epoch + 1 >= 2**62:
            raise Refused('the last sequence number or epoch makes no sense')

    def note_damage(self, segment, what, epoch, sequence):
        """EPOCH, SEQUENCE: no later ones can be hidden; None: unknown."""
        self.damage.append((segment.id, what))
        self.log('segment %d is damaged: %s' % (segment.id, what))
        clean = epoch is not None and epoch <= self.written_back
        if not clean or self.lost:                              # [X2]
            self.needs_rescue = True
        if self.needs_rescue and not self.rescue:
            raise Refused('segment %d: %s; dirty data may be hidden'
                          % (segment.id, what))
        if clean:                                               # [X1]
            self.tail = max(self.tail, sequence)
        else:                                                   # [X2]
            self.hides_dirty = True

    @staticmethod
    def dirty_epoch(sets):
        return max([s.epoch for s in sets
                    if not all(r.clean for r in s.records)], default=0)

    def judge_sealed(self, segment):                            # [D2]
        sets = [s for s, _ in segment.walked if s]
        segment.kept = sets
        first = sets[0].records[0].sequence if sets else 0
        last = sets[-1].records[-1].sequence if sets else 0
        if len(sets) != segment.sets:
            what = 'sets are missing'
        elif (self.dirty_epoch(sets), first, last) != \
             (segment.epoch_max, segment.sequence_min, segment.sequence_max):
            what = 'the header contradicts the sets'
        else:
            return
        segment.reach = (max(segment.epoch_max, self.dirty_epoch(sets)),
                         max(segment.sequence_max, last))
        epoch, sequence = segment.reach
        behind = self.behind_last_gap(segment.walked)
        if behind and sets[-1].ordinal == segment.sets - 1:
            epoch = min(epoch, behind.epoch)
            sequence = behind.records[0].sequence - 1
        self.note_damage(segment, what, epoch, sequence)

    @staticmethod
    def behind_last_gap(walked):
        """The first valid set there, if there is one."""
        found, after_gap = None, False
        for s, _ in walked:
            if s and after_gap:
                found = s
            after_gap = s is None
        return found

    def judge_open(self, segment):                              # [D4]..[D6]
        sets = []
        gap = None              # ordinal of the first set that is not there
        for i, (s, verdict) in enumerate(segment.walked):
            if s is None:
                gap, why, behind = len(sets), verdict, segment.walked[i + 1:]
                break
            if (segment.unordered and s.epoch > self.through    # [D3]
                    and not self.data_is_there(s)):
                break
            sets.append(s)
        segment.kept = sets
        if gap is None:
            return
        later = [s for s, _ in behind if s]
        if why != 'nonsense' and not any(
                s.durable_sets > gap or s.epoch <= self.through
                for s in later):
            return
        segment.kept = sets + later
        bound = self.behind_last_gap(segment.walked)
        if later and behind[-1][1] in ('nonsense', 'unreadable'):
            bound = None
        if bound is None:
            segment.reach = (self.written_back + 1, None)
        self.note_damage(segment, 'set %d: %s' % (gap, why),
                         bound and bound.epoch,
                         bound and bound.records[0].sequence - 1)

    def data_is_there(self, s):
        return all(self.data_of(r) is not None for r in s.records
                   if r.kind == DATA and r.has_checksum)

    def data_of(self, record):
        data = self.device[record.at:record.at + record.length]
        if record.has_checksum and xxh3(data) != record.checksum:
            return None
        return data

    # The map ------------------------------------------------------------

    def replay(self):
        """Newest last.  self.extents: start, end, record, dirty; sorted."""
        self.replayed = self.dropped = 0
        self.starts, self.extents = [], []
        runs = [[(r.sequence, s.epoch, r) for s in segment.kept
                 for r in s.records] for segment in self.segments]
        for sequence, epoch, r in heapq.merge(*runs, key=lambda x: x[0]):
            dirty = not r.clean and epoch > self.written_back   # [P1]
            if sequence <= self.tail_on_media and not dirty:    # [P2]
                self.dropped += 1
                continue
            passed_over = (sequence <= self.tail and not dirty
                           and r.kind not in (LOST, HOLE))
            self.dropped += passed_over
            self.replayed += not passed_over
            self.insert(r, dirty, r.kind == HOLE or passed_over)    # [P3]

    def insert(self, record, dirty, hole):
        start, end = record.start, record.end()
        first = bisect.bisect_right(self.starts, start) - 1
        if first < 0 or self.extents[first][1] <= start:
            first += 1
        last = bisect.bisect_left(self.starts, end)
        new = [(start, end, record, dirty)] if not hole else []
        if first < last:
            old = self.extents[first]
            if old[0] < start:
                new.insert(0, (old[0], start) + old[2:])
            old = self.extents[last - 1]
            if old[1] > end:
                new.append((end, old[1]) + old[2:])
        self.extents[first:last] = new
        self.starts[first:last] = [e[0] for e in new]

    def map(self):
        """Runs (start, length, kind) of the whole disk."""
        at = 0
        runs = []

        def add(start, end, kind):
            if start == end:
                return
            if runs and runs[-1][2] == kind:
                start = runs.pop()[0]
            runs.append((start, end - start, kind))

        for start, end, record, _ in self.extents:
            add(at, start, 'hole')
            add(start, end, KIND_NAMES[record.kind])
            at = end
        if self.bound:
            add(at, self.backing_size, 'hole')
        return runs

    def overlay(self, disk):
        """Write what is cached over DISK, which has the backing store's
        bytes.  Returns the ranges (start, end) that cannot be read."""
        errors = []
        for start, end, record, dirty in self.extents:
            data = bytes(end - start)
            failed = record.kind == LOST
            if record.kind == DATA:
                whole = self.data_of(record)
                if whole is None:
                    if not dirty:       # [V2] the backing store has it, too
                        continue
                    failed = True
                else:
                    data = whole[start - record.start:end - record.start]
            if failed:
                errors.append((start, end))
            disk[start:end] = data
        return errors


def printable(data):
    return ''.join(chr(b) if 0x20 <= b < 0x7f and b != 0x25 else '%%%02X' % b
                   for b in data)


def is_dirty(cache, a_set, record):                             # [P1]
    return not record.clean and a_set.epoch > cache.written_back


def record_as_json(cache, segment, a_set, r):
    result = {'segment': segment.id, 'set': a_set.ordinal,
              'epoch': a_set.epoch, 'sequence': r.sequence,
              'offset': r.start, 'length': r.length,
              'kind': {DATA: 'data', ZERO: 'zero', TRIM: 'trim',
                       LOST: 'lost'}[r.kind],
              'dirty': is_dirty(cache, a_set, r)}
    if r.kind == DATA:
        result['place'] = r.at
        if r.has_checksum:
            result['checksum'] = '%016x' % r.checksum
    return result


def segment_as_json(cache, s):
    if not s.valid:
        return {'id': s.id, 'state': 'damaged'}
    result = {'id': s.id, 'generation': s.generation,
              'state': {FREE: 'free', OPEN: 'open', SEALED: 'sealed'}[s.state]}
    if s.state != FREE:
        records = [(k, r) for k in s.kept for r in k.records]
        result.update({
            'unordered': s.unordered,
            'damaged': any(d[0] == s.id for d in cache.damage),
            'sets': len(s.kept), 'records': len(records),
            'dirty_records': sum(is_dirty(cache, *x) for x in records)})
    return result


def as_json(cache):
    """What pcachectl inspect --json --records has to say, too."""
    foreign = cache.superblock.verdict[0] == 'not ours'
    records = [record_as_json(cache, s, k, r) for s in cache.segments
               for k in s.kept for r in k.records]
    epochs = {}
    for r in records:
        if r['dirty']:
            e = epochs.setdefault(r['epoch'], {
                'epoch': r['epoch'], 'records': 0, 'dirty_bytes': 0})
            e['records'] += 1
            e['dirty_bytes'] += r['length']
    superblock = {
        'version': 1, 'uuid': cache.uuid.hex(), 'compat': cache.compat,
        'ro_compat': cache.ro_compat, 'incompat': cache.incompat,
        'device_size': cache.device_size, 'segment_size': cache.segment_size,
        'segment_count': cache.segment_count,
        'segment_capacity': cache.capacity,
        'first_segment_at': cache.first_segment, 'bound': cache.bound,
        'update': cache.superblock.sequence,
        'copies': cache.superblock.verdict}
    if cache.bound:
        superblock.update({
            'backing_size': cache.backing_size,
            'export': printable(cache.export),
            'backing_id': printable(cache.backing_id)})
    return {
        'opens': 'rescue' if cache.needs_rescue or foreign else 'yes',
        'superblock': superblock,
        'control': {
            'tail': cache.tail_on_media, 'written_back': cache.written_back,
            'gc_percent': (cache.gc_percent if cache.gc_percent <= 90
                           else None),
            'lost': cache.lost,
            'checkpoint': cache.checkpoint_is_current(),
            'update': cache.control.sequence,
            'copies': cache.control.verdict},
        'tail': cache.tail, 'replayed': cache.replayed,
        'dropped': cache.dropped,
        'dirty_bytes': sum(e['dirty_bytes'] for e in epochs.values()),
        'epochs': [epochs[e] for e in sorted(epochs)],
        'segments': [segment_as_json(cache, s) for s in cache.segments],
        'records': records}


def show_info(cache):
    def text(data):
        return data.decode(errors='replace')

    print('uuid %s' % cache.uuid.hex())
    print('features compat %#x ro_compat %#x incompat %#x'
          % (cache.compat, cache.ro_compat, cache.incompat))
    print('segments %d of %d bytes from %d, slots for %d'
          % (cache.segment_count, cache.segment_size, cache.first_segment,
             cache.capacity))
    if cache.bound:
        print('backing store %d bytes, export "%s", id "%s"'
              % (cache.backing_size, text(cache.export),
                 text(cache.backing_id)))
    else:
        print('backing store none yet')
    print('superblock copies %s sequence %d'
          % (', '.join(cache.superblock.verdict), cache.superblock.sequence))
    print('control block copies %s sequence %d'
          % (', '.join(cache.control.verdict), cache.control.sequence))
    print('tail %d, written back %d' % (cache.tail, cache.written_back))
    print('checkpoint: %s' % cache.judge_checkpoint())
    for s in cache.segments:
        state = {FREE: 'free', OPEN: 'open', SEALED: 'sealed'}
        if not s.valid:
            print('segment %d header damaged' % s.id)
        elif s.state != FREE:
            print('segment %d %s, generation %d, %d sets, %d records'
                  % (s.id, state[s.state], s.generation, len(s.kept),
                     sum(len(k.records) for k in s.kept)))
    print('replayed %d dropped %d' % (cache.replayed, cache.dropped))
    print('dirty bytes %d'
          % sum(e[1] - e[0] for e in cache.extents if e[3]))


def main():
    parser = argparse.ArgumentParser(
        description='Read a pcache cache device as docs/FORMAT.md says.')
    parser.add_argument('--rescue', action='store_true')
    parser.add_argument('command', choices=('info', 'json', 'map', 'image'))
    parser.add_argument('device')
    parser.add_argument('files', nargs='*', metavar='BACKING OUT')
    args = parser.parse_args()
    if len(args.files) != (2 if args.command == 'image' else 0):
        parser.error('image takes DEVICE BACKING OUT, the others DEVICE')

    with open(args.device, 'rb') as f:
        device = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        cache = Cache(device, args.rescue or args.command == 'json',
                      lambda text: print(text, file=sys.stderr))
    except Refused as e:
        print('%s: %s' % (args.device, e), file=sys.stderr)
        return 1
    if args.command == 'info':
        show_info(cache)
    elif args.command == 'json':
        json.dump(as_json(cache), sys.stdout, indent=1)
    elif args.command == 'map':
        for run in cache.map():
            print('%d %d %s' % run)
    else:
        with open(args.files[0], 'rb') as f:
            disk = bytearray(f.read())
        if cache.bound and len(disk) != cache.backing_size:
            print('%s has %d bytes, the cache is for %d'
                  % (args.files[0], len(disk), cache.backing_size),
                  file=sys.stderr)
            return 1
        errors = cache.overlay(disk)
        with open(args.files[1], 'wb') as f:
            f.write(disk)
        for start, end in errors:
            print('cannot be read: %d %d' % (start, end - start),
                  file=sys.stderr)
        return 3 if errors else 0
    return 0


if __name__ == '__main__':
    sys.exit(main())
