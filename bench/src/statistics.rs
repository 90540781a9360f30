//! What several measurements of one thing come to.

use serde::{Deserialize, Serialize};

/// The middle of some figures, and how far apart they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The median.
    pub(crate) median: f64,
    /// From the least to the greatest, in per cent of the median.
    pub(crate) spread_percent: f64,
}

impl Summary {
    /// The summary of some figures; `None` of none.
    pub(crate) fn of(figures: &[f64]) -> Option<Summary> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        };
        Some(Summary {
            median,
            spread_percent: percent(greatest - least, median),
        })
    }
}

/// Where most figures of one thing are, and the worst of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// Half of the figures are not above it.
    pub(crate) p50: f64,
    /// 99 of 100 are not above it.
    pub(crate) p99: f64,
    /// The greatest.
    pub(crate) greatest: f64,
}

impl Percentiles {
    /// The percentiles of some figures, each one of the figures itself; `None` of none.
    pub(crate) fn of(figures: &[f64]) -> Option<Percentiles> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: usize| sorted.get((sorted.len() * part).div_ceil(100).checked_sub(1)?);
        Some(Percentiles {
            p50: *at(50)?,
            p99: *at(99)?,
            greatest: *sorted.last()?,
        })
    }
}

/// Where most figures of many are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quantiles {
    pub(crate) count: usize,
    /// So many of a hundred, or of a thousand, are not above it.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Quantiles {
    /// The quantiles of some figures, each one of the figures itself; `None` of none.
    pub(crate) fn of(figures: &[f64]) -> Option<Quantiles> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: usize| sorted.get((sorted.len() * part).div_ceil(1_000).checked_sub(1)?);
        Some(Quantiles {
            count: sorted.len(),
            p50: *at(500)?,
            p99: *at(990)?,
            p999: *at(999)?,
        })
    }
}

/// `part` in per cent of `whole`, 0 of nothing.
pub(crate) fn percent(part: f64, whole: f64) -> f64 {
    match whole == 0.0 {
        true => 0.0,
        false => 100.0 * part / whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(
            Summary::of(&[4.0]),
            Some(Summary {
                median: 4.0,
                spread_percent: 0.0
            })
        );
        assert_eq!(
            Summary::of(&[5.0, 4.0, 3.0]),
            Some(Summary {
                median: 4.0,
                spread_percent: 50.0
            })
        );
        assert_eq!(
            Summary::of(&[1.0, 3.0, 5.0, 100.0]).map(|it| it.median),
            Some(4.0)
        );
    }

    #[test]
    fn percentiles_are_figures_themselves() {
        assert_eq!(Percentiles::of(&[]), None);
        let figures: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let expected = |p50, p99, greatest| Percentiles { p50, p99, greatest };
        assert_eq!(
            Percentiles::of(&figures),
            Some(expected(100.0, 198.0, 200.0))
        );
        assert_eq!(Percentiles::of(&[7.0]), Some(expected(7.0, 7.0, 7.0)));
    }

    #[test]
    fn quantiles_reach_the_tail() {
        assert_eq!(Quantiles::of(&[]), None);
        let figures: Vec<f64> = (1..=2_000).rev().map(f64::from).collect();
        let expected = Quantiles {
            count: 2_000,
            p50: 1_000.0,
            p99: 1_980.0,
            p999: 1_998.0,
        };
        assert_eq!(Quantiles::of(&figures), Some(expected));
    }
}
