//! Which items to remove to make room (pure).

/// As many items, from the front, as hold `missing` bytes, without those that the others make superfluous, of which the
/// last are spared first. `None` if all items together hold too little.
pub(super) fn enough<T>(all: impl IntoIterator<Item = T>, missing: u64, bytes: impl Fn(&T) -> u64) -> Option<Vec<T>> {
    let missing = u128::from(missing);
    let (mut free, mut chosen) = (0_u128, Vec::new());
    for one in all {
        if free >= missing {
            break;
        }
        free += u128::from(bytes(&one));
        chosen.push(one);
    }
    if free < missing {
        return None;
    }
    chosen.reverse();
    chosen.retain(|one| {
        let rest = free - u128::from(bytes(one));
        let is_needed = rest < missing;
        if !is_needed {
            free = rest;
        }
        is_needed
    });
    chosen.reverse();
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_are_enough_and_none_in_vain() {
        for (all, missing, expected) in [
            (&[][..], 0, Some(&[][..])),
            (&[], 1, None),
            (&[5, 5], 0, Some(&[])),
            (&[5, 5], 5, Some(&[5])),
            (&[5, 4], 9, Some(&[5, 4])),
            (&[5, 4], 10, None),
            // A small item precedes a large one that is enough.
            (&[4, 1000, 2000], 1000, Some(&[1000])),
            (&[4, 1000, 2000], 1004, Some(&[4, 1000])),
            (&[4, 1000, 2000], 1005, Some(&[2000])),
            // The last items are spared first.
            (&[6, 7, 100], 106, Some(&[6, 100])),
            (&[6, 7, 100], 107, Some(&[7, 100])),
            (&[0, 1], 1, Some(&[1])),
            (&[5, u64::MAX], u64::MAX, Some(&[u64::MAX])),
            (&[u64::MAX, u64::MAX], u64::MAX, Some(&[u64::MAX])),
        ] {
            assert_eq!(enough(all.iter().copied(), missing, |bytes| *bytes).as_deref(), expected, "{all:?} {missing}");
        }
    }
}
