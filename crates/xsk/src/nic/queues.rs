//! Which queues a NIC spreads packets over, and how each comes to have a worker.

use super::ethtool::Channels;

/// How a device spreads what it receives, as far as its driver says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Queues that packets may come in by; `None`: the driver doesn't say, and it is most likely one.
    pub queues: Option<u32>,
    /// Which queue each value of the hash leads to; `None`: the driver has no such table.
    pub table: Option<Vec<u32>>,
    /// The queues in use, and how many there could be; `None`: they can't be changed.
    pub channels: Option<Channels>,
}

/// What gives every queue that a packet may come in by a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Steering {
    /// Nothing: each has one.
    Owned,
    /// Another table.
    Table(Vec<u32>),
    /// Another number of queues.
    Channels(Channels),
    /// More workers: the device has this many queues, and keeps them.
    TooMany(u32),
    /// Fewer workers: the device has this many queues at most.
    TooFew(u32),
}

/// What `workers` workers, who own the first queues of the device, need of it.
///
/// The table comes first, because changing it resets no device; then the number of queues.
pub(crate) fn steer(spread: &Spread, workers: u32) -> Steering {
    let Some(queues) = spread.queues else {
        return Steering::Owned;
    };
    if queues < workers {
        return match spread.channels.and_then(|now| with_queues(now, workers)) {
            Some(channels) => Steering::Channels(channels),
            None => Steering::TooFew(queues),
        };
    }
    if queues == workers {
        return Steering::Owned;
    }
    if let Some(table) = &spread.table
        && !table.is_empty()
    {
        if table.iter().all(|&queue| queue < workers) {
            return Steering::Owned;
        }
        let evenly = (0..workers).cycle().take(table.len());
        return Steering::Table(evenly.collect());
    }
    match spread.channels.and_then(|now| with_queues(now, workers)) {
        Some(channels) => Steering::Channels(channels),
        None => Steering::TooMany(queues),
    }
}

/// The same device with so many queues that receive, if it can have them.
fn with_queues(now: Channels, wanted: u32) -> Option<Channels> {
    // Drivers count queues for both ways, or each way apart; where they have both kinds, those for both ways are first.
    if now.max_combined >= wanted {
        return Some(Channels {
            combined: wanted,
            receive: 0,
            ..now
        });
    }
    (now.max_combined == 0 && now.max_receive >= wanted).then_some(Channels {
        receive: wanted,
        ..now
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn combined(now: u32, max: u32) -> Channels {
        Channels {
            max_combined: max,
            combined: now,
            other: 1,
            ..Channels::default()
        }
    }

    fn spread(table: Option<&[u32]>, channels: Option<Channels>) -> Spread {
        Spread {
            queues: channels.map(Channels::receiving),
            table: table.map(<[u32]>::to_vec),
            channels,
        }
    }

    #[test]
    fn nic1_hash_buckets_of_queues_without_a_worker_are_pointed_at_those_with_one() {
        let igb = spread(Some(&[0, 1, 0, 1, 0, 1, 0, 1]), Some(combined(2, 8)));
        assert_eq!(steer(&igb, 1), Steering::Table(vec![0; 8]));
        assert_eq!(steer(&igb, 2), Steering::Owned);
        let after_l = spread(Some(&[0, 1, 2, 3, 0, 1, 2, 3]), Some(combined(4, 8)));
        assert_eq!(
            steer(&after_l, 3),
            Steering::Table(vec![0, 1, 2, 0, 1, 2, 0, 1])
        );
    }

    #[test]
    fn nic1_a_table_that_others_set_stays_while_each_of_its_queues_has_a_worker() {
        let narrow = spread(Some(&[0, 0, 0, 0]), Some(combined(8, 8)));
        assert_eq!(steer(&narrow, 2), Steering::Owned);
        let wrong = spread(Some(&[0, 0, 0, 7]), Some(combined(8, 8)));
        assert_eq!(steer(&wrong, 2), Steering::Table(vec![0, 1, 0, 1]));
    }

    #[test]
    fn nic1_without_a_table_queues_without_a_worker_go() {
        let virtio = spread(None, Some(combined(2, 2)));
        let Steering::Channels(channels) = steer(&virtio, 1) else {
            panic!("queues are to go");
        };
        assert_eq!((channels.receiving(), channels.other), (1, 1));
        let veth = Channels {
            max_receive: 4,
            receive: 4,
            transmit: 4,
            ..Channels::default()
        };
        let Steering::Channels(channels) = steer(&spread(None, Some(veth)), 2) else {
            panic!("queues are to go");
        };
        assert_eq!((channels.receive, channels.transmit), (2, 4));
    }

    #[test]
    fn nic1_workers_without_a_queue_get_one_or_are_too_many() {
        let raised = spread(Some(&[0; 4]), Some(combined(1, 4)));
        assert_eq!(steer(&raised, 2), Steering::Channels(combined(2, 4)));
        let single = spread(None, Some(combined(1, 1)));
        assert_eq!(steer(&single, 2), Steering::TooFew(1));
    }

    #[test]
    fn nic1_queues_that_stay_are_named() {
        let fixed = Spread {
            queues: Some(4),
            ..Spread::default()
        };
        assert_eq!(steer(&fixed, 2), Steering::TooMany(4));
        assert_eq!(steer(&Spread::default(), 2), Steering::Owned);
    }

    #[test]
    fn whatever_a_driver_says_no_bucket_is_left_to_a_queue_without_a_worker() {
        for workers in 1..5 {
            for queues in 0..9 {
                for table in [None, Some((0..16).map(|it| it % queues.max(1)).collect())] {
                    let spread = Spread {
                        queues: Some(queues),
                        table,
                        channels: Some(combined(queues, 8)),
                    };
                    match steer(&spread, workers) {
                        Steering::Owned => assert!(
                            queues == workers
                                || spread.table.iter().flatten().all(|&queue| queue < workers)
                        ),
                        Steering::Table(table) => {
                            assert!(table.iter().all(|&queue| queue < workers));
                            assert_eq!(table.len(), 16);
                        }
                        Steering::Channels(channels) => assert_eq!(channels.receiving(), workers),
                        other @ (Steering::TooMany(_) | Steering::TooFew(_)) => {
                            panic!("{other:?}: the channels can be changed")
                        }
                    }
                }
            }
        }
    }
}
