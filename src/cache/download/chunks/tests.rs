use super::*;

const TOTAL: u64 = 10 * CHUNK - 7;

fn whole() -> Chunks {
    let mut chunks = Chunks::default();
    chunks.set_total(TOTAL);
    chunks.join(None);
    chunks
}

fn write(chunks: &mut Chunks, range: Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(CHUNK - at % CHUNK);
        chunks.wrote(at, len, 0);
        at += len;
    }
}

#[test]
fn the_lead_stream_takes_free_chunks_and_stops_at_others() {
    let mut chunks = whole();
    chunks.take(1, &(3 * CHUNK..5 * CHUNK));
    assert_eq!(chunks.admit(LEAD, 0, 100, false), Some(Admit::Write(100)));
    assert_eq!(chunks.admit(LEAD, 100, 2 * CHUNK, false), Some(Admit::Write(CHUNK - 100)));
    assert_eq!(chunks.admit(LEAD, CHUNK, 9, false), Some(Admit::Write(9)));
    assert_eq!(chunks.admit(LEAD, 3 * CHUNK, 9, false), None);
    // A stream of the whole blob cannot leave out bytes: it waits for the other worker, and discards them.
    assert_eq!(chunks.admit(LEAD, 3 * CHUNK, 9, true), Some(Admit::Wait));
    write(&mut chunks, 4 * CHUNK..5 * CHUNK);
    // What a worker left is continued behind what it wrote.
    write(&mut chunks, 3 * CHUNK..3 * CHUNK + 10);
    chunks.release(1);
    assert_eq!(chunks.admit(LEAD, 3 * CHUNK, 100, false), Some(Admit::Skip(10)));
    assert_eq!(chunks.admit(LEAD, 3 * CHUNK + 10, 90, false), Some(Admit::Write(90)));
}

#[test]
fn who_waits_longest_comes_first() {
    let mut chunks = whole();
    chunks.set_stream(Some(0..u64::MAX));
    let range = |first, last| Some(ByteRange::Bounded { first, last });
    let (late, early) = (chunks.join(range(8 * CHUNK, 9 * CHUNK)), chunks.join(range(5 * CHUNK + 3, 6 * CHUNK)));
    let near = chunks.join(range(CHUNK, CHUNK + 1));
    assert_eq!(chunks.wanted(u64::MAX), None, "no reader waits");
    [near, early, late].into_iter().for_each(|reader| chunks.waits(reader));
    assert_eq!(chunks.wanted(u64::MAX), Some(5 * CHUNK..7 * CHUNK));
    assert_eq!(chunks.wanted(CHUNK), Some(5 * CHUNK..6 * CHUNK));
    assert_eq!(chunks.wanted_by_reader(near, CHUNK), None, "the stream is nearly there");
    chunks.take(1, &(5 * CHUNK..7 * CHUNK));
    assert_eq!(chunks.wanted(u64::MAX), Some(8 * CHUNK..TOTAL));
    chunks.leave(late);
    assert_eq!(chunks.wanted(u64::MAX), None);
}

#[test]
fn only_what_readers_need_is_fetched_until_the_whole_is() {
    let mut chunks = Chunks::default();
    let reader = chunks.join(Some(ByteRange::Suffix { count: CHUNK }));
    assert_eq!(chunks.lowest_free(u64::MAX), None, "the size is unknown");
    let behind = chunks.join(Some(ByteRange::From { first: TOTAL }));
    chunks.set_total(TOTAL);
    let all_needed = 8 * CHUNK..TOTAL;
    assert_eq!(chunks.lowest_free(u64::MAX), Some(all_needed.clone()));
    assert_eq!(chunks.promised(), 0);
    chunks.leave(behind);
    chunks.take(LEAD, &all_needed);
    assert_eq!((chunks.promised(), chunks.has_half()), (2 * CHUNK - 7, false));
    write(&mut chunks, all_needed);
    chunks.release(LEAD);
    chunks.leave(reader);
    assert_eq!((chunks.lowest_free(u64::MAX), chunks.last_free(CHUNK)), (None, None));
    chunks.join(Some(ByteRange::From { first: 0 }));
    assert!(chunks.is_complete_wanted(), "an open range from the start is the whole");
    assert_eq!(chunks.lowest_free(u64::MAX), Some(0..8 * CHUNK));
    assert_eq!(chunks.promised(), TOTAL);
}

#[test]
fn the_last_chunks_are_at_most_half_of_what_is_missing() {
    let mut chunks = whole();
    chunks.set_stream(Some(0..u64::MAX));
    assert_eq!(chunks.last_free(2 * CHUNK), Some(8 * CHUNK..TOTAL));
    assert_eq!(chunks.last_free(u64::MAX), Some(5 * CHUNK..TOTAL));
    chunks.set_stream(Some(8 * CHUNK..u64::MAX));
    assert_eq!(chunks.last_free(u64::MAX), Some(9 * CHUNK..TOTAL));
    chunks.set_stream(Some(9 * CHUNK..u64::MAX));
    assert_eq!(chunks.last_free(u64::MAX), None);
}

#[test]
fn what_was_left_counts_once_it_is_checked() {
    let mut chunks = Chunks::default();
    let record = |written| ChunkRecord { written, crc: 5 };
    chunks.restore(CHUNK, Some(TOTAL), [record(CHUNK), record(100), record(0), record(CHUNK)]);
    assert_eq!((chunks.front(), chunks.written()), (0, 2 * CHUNK + 100));
    assert!(chunks.to_check(9).is_empty(), "no reader needs it");
    let reader = chunks.join(Some(ByteRange::Bounded { first: 3 * CHUNK, last: 4 * CHUNK - 1 }));
    assert_eq!(chunks.to_check(9), [(3, record(CHUNK))], "a reader needs it");
    chunks.waits(reader);
    assert_eq!(chunks.to_check(9), [(3, record(CHUNK))], "a reader waits for it");
    assert_eq!(chunks.wanted(u64::MAX), None, "it is not fetched meanwhile");
    chunks.checked(3, true);
    assert_eq!(chunks.written_to(3 * CHUNK), 4 * CHUNK);
    chunks.join(None);
    // The part of a chunk comes first: the rest of it may have to be requested.
    assert_eq!(chunks.to_check(1), [(1, record(100))]);
    assert!(chunks.waits_for_check(&(2 * CHUNK..TOTAL)));
    assert_eq!(chunks.to_check(9), [(1, record(100)), (0, record(CHUNK))]);
    chunks.checked(0, true);
    chunks.checked(1, false);
    assert!(chunks.to_check(1).is_empty());
    assert_eq!((chunks.front(), chunks.written()), (CHUNK, 2 * CHUNK));
    assert_eq!(chunks.lowest_free(u64::MAX), Some(CHUNK..3 * CHUNK), "the damaged chunk is fetched again");
}

#[test]
fn a_huge_blob_has_larger_chunks() {
    for (total, size) in [(0, CHUNK), (1, CHUNK), (64 << 30, CHUNK), ((64 << 30) + 1, 2 * CHUNK), (1 << 40, 16 * CHUNK)]
    {
        assert_eq!(chunk_size(total), size, "{total}");
    }
    let mut chunks = Chunks::default();
    chunks.set_total(u64::MAX);
    chunks.join(None);
    assert_eq!((chunks.lowest_free(u64::MAX), chunks.missing()), (Some(0..u64::MAX), Some(u64::MAX)));
    assert!(chunks.last_free(u64::MAX).is_some_and(|last| last.end == u64::MAX));
    // Once there are bytes, an upstream cannot choose how large the map is.
    let mut chunks = Chunks::default();
    assert!(chunks.fits(u64::MAX));
    assert_eq!(chunks.admit(LEAD, 0, 1, false), Some(Admit::Write(1)));
    assert!(chunks.fits(1 << 40) && !chunks.fits((1 << 40) + 1));
}
