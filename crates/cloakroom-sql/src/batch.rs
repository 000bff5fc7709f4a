//! What waits together, sorted into what may travel together.

use std::collections::HashSet;

use cloakroom_core::SessionId;

/// The most items of one statement.
pub(crate) const MOST: usize = 256;
/// The most bytes of records in one statement, unless it is for one record alone.
const MOST_BYTES: usize = 4 << 20;

/// Cuts items into batches that hold each id at most once, in the order of ids, and do not grow
/// beyond bounds.
///
/// In one statement the second writer of an id would see neither the state before the first nor the
/// one after. Rows that everybody locks in the order of ids never deadlock. Of the items of one id,
/// what came first is in the earlier batch.
pub(crate) fn waves<T>(items: Vec<T>, id: impl Fn(&T) -> SessionId, bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut waves = Vec::new();
    let mut rest = items;
    while !rest.is_empty() {
        let (mut wave, mut later) = (Vec::with_capacity(rest.len().min(MOST)), Vec::new());
        let mut ids = HashSet::with_capacity(rest.len().min(MOST));
        let mut size = 0;
        for item in rest {
            let fits = wave.is_empty() || (wave.len() < MOST && size + bytes(&item) <= MOST_BYTES);
            // An id that has to wait keeps its later items waiting, too.
            if ids.insert(id(&item)) && fits {
                size += bytes(&item);
                wave.push(item);
            } else {
                later.push(item);
            }
        }
        wave.sort_unstable_by_key(&id);
        waves.push(wave);
        rest = later;
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> SessionId {
        SessionId::from_bytes([n; SessionId::LEN])
    }

    #[test]
    fn an_id_is_once_in_a_wave_and_in_the_order_it_came() {
        let items = vec![(3, 'a'), (1, 'b'), (3, 'c'), (2, 'd'), (3, 'e'), (1, 'f')];
        let waves = waves(items, |(n, _)| id(*n), |_| 0);
        assert_eq!(waves, [vec![(1, 'b'), (2, 'd'), (3, 'a')], vec![(1, 'f'), (3, 'c')], vec![(3, 'e')]]);
    }

    #[test]
    fn waves_are_bounded_in_items_and_bytes() {
        let items: Vec<_> = (0..=255).chain(0..=255).map(|n: u8| (n, 0)).collect();
        assert_eq!(waves(items, |(n, _)| id(*n), |_| 0).iter().map(Vec::len).collect::<Vec<_>>(), [256, 256]);
        let items = vec![(1, MOST_BYTES + 1), (2, 1), (3, MOST_BYTES), (2, 2)];
        let waves = waves(items, |(n, _)| id(*n), |(_, bytes)| *bytes);
        assert_eq!(waves, [vec![(1, MOST_BYTES + 1)], vec![(2, 1)], vec![(3, MOST_BYTES)], vec![(2, 2)]]);
    }
}
