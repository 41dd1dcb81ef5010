//! The highest rate that meets a target: bracketed by doubling, narrowed by bisection, confirmed by a repeat.
//!
//! A probe is a noisy judge: near the knee the same rate may pass once and fail once. So the rate that is reported has passed
//! twice, with different arrivals; one that fails its repeat gives way to one a step lower, which must pass twice again.

use serde::Serialize;

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The target is met at this rate.
    Met,
    /// It is not.
    Missed,
    /// Nobody wants to know any more.
    Stop,
}

/// How to search.
#[derive(Clone, Copy, Debug)]
pub struct SearchPlan {
    /// First rate tried, above 0.
    pub start: f64,
    /// Ends when the lowest rate that missed is at most this share above the highest that met.
    pub precision: f64,
    /// Most probes.
    pub max_probes: usize,
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Found {
    /// Highest rate that met the target.
    pub rate: Option<f64>,
    /// Lowest rate above it that did not.
    pub missed_at: Option<f64>,
    /// Whether `rate` met it twice.
    pub confirmed: bool,
    /// Probes made.
    pub probes: usize,
}

impl Found {
    /// How far above `rate` the truth may lie, as a share of it.
    pub fn precision(&self) -> Option<f64> {
        Some(self.missed_at? / self.rate? - 1.0)
    }
}

/// No rate below this part of the first is tried: a target that is missed there is missed by a request that is alone.
const LOWEST: f64 = 1.0 / 64.0;

/// Searches. `probe` gets the rate.
///
/// # Errors
/// Those of `probe`.
pub fn search<E>(plan: SearchPlan, probe: impl FnMut(f64) -> Result<Verdict, E>) -> Result<Found, E> {
    let mut search = Search { plan, probe, found: Found::default(), stopped: false };
    search.bracket()?;
    search.narrow()?;
    search.confirm()?;
    Ok(search.found)
}

struct Search<P> {
    plan: SearchPlan,
    probe: P,
    found: Found,
    stopped: bool,
}

impl<E, P: FnMut(f64) -> Result<Verdict, E>> Search<P> {
    /// Tries a rate; `None` when the search is over.
    fn try_rate(&mut self, rate: f64) -> Result<Option<bool>, E> {
        if self.stopped || self.found.probes >= self.plan.max_probes {
            return Ok(None);
        }
        self.found.probes += 1;
        let met = match (self.probe)(rate)? {
            Verdict::Stop => {
                self.stopped = true;
                return Ok(None);
            }
            verdict => verdict == Verdict::Met,
        };
        let place = if met { &mut self.found.rate } else { &mut self.found.missed_at };
        *place = Some(rate);
        Ok(Some(met))
    }

    /// Finds a rate that meets the target and one that does not.
    fn bracket(&mut self) -> Result<(), E> {
        let mut rate = round(self.plan.start);
        let lowest = rate * LOWEST;
        while (self.found.rate.is_none() || self.found.missed_at.is_none()) && rate >= lowest {
            let Some(met) = self.try_rate(rate)? else { return Ok(()) };
            rate = round(if met { rate * 2.0 } else { rate / 2.0 });
        }
        Ok(())
    }

    fn narrow(&mut self) -> Result<(), E> {
        while let (Some(low), Some(high)) = (self.found.rate, self.found.missed_at) {
            // Rates are judged by ratio, so the middle is the geometric one.
            let middle = round((low * high).sqrt());
            let narrow_enough = high / low <= 1.0 + self.plan.precision || middle <= low || middle >= high;
            if narrow_enough || self.try_rate(middle)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn confirm(&mut self) -> Result<(), E> {
        // Bracketing and narrowing leave the last rate that passed; it has passed once.
        while let Some(rate) = self.found.rate {
            match self.try_rate(rate)? {
                None => return Ok(()),
                Some(true) => {
                    self.found.confirmed = true;
                    return Ok(());
                }
                Some(false) => self.step_down(rate)?,
            }
        }
        Ok(())
    }

    /// Goes down in steps until a rate passes.
    fn step_down(&mut self, from: f64) -> Result<(), E> {
        self.found.rate = None;
        let mut rate = from;
        let mut share = self.plan.precision;
        while self.found.rate.is_none() {
            // Steps double: a first pass far above the knee is not paid for with a hundred probes.
            rate = round(rate / (1.0 + share));
            share *= 2.0;
            if rate < round(self.plan.start) * LOWEST || self.try_rate(rate)?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Three digits: what a rate is written with.
pub fn round(rate: f64) -> f64 {
    if rate <= 0.0 || !rate.is_finite() {
        return rate;
    }
    let power = 10f64.powf(rate.log10().floor() - 2.0);
    let digits = (rate / power).round();
    // Powers of ten below one are not exact: dividing by their inverse gives the number as it is written.
    if power < 1.0 { digits / (1.0 / power).round() } else { digits * power }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;
    use std::convert::Infallible;

    const PLAN: SearchPlan = SearchPlan { start: 10.0, precision: 0.02, max_probes: 40 };

    /// P99 of the time in an M/M/1 system: ln(100) / (service rate - arrival rate).
    fn p99(rate: f64, service: f64) -> f64 {
        if rate >= service { f64::INFINITY } else { 100f64.ln() / (service - rate) }
    }

    fn run(plan: SearchPlan, mut met: impl FnMut(f64) -> bool) -> (Found, Vec<f64>) {
        let mut tried = Vec::new();
        let found = search(plan, |rate| {
            tried.push(rate);
            Ok::<_, Infallible>(if met(rate) { Verdict::Met } else { Verdict::Missed })
        });
        let Ok(found) = found;
        (found, tried)
    }

    #[test]
    fn finds_a_known_knee_from_below_and_from_above() {
        // P99 is 50 ms at 1000 - ln(100) / 0.05 = 907.9 requests a second.
        let knee = 1000.0 - 100f64.ln() / 0.05;
        for start in [1.0, 10.0, 900.0, 30_000.0] {
            let (found, tried) = run(SearchPlan { start, ..PLAN }, |rate| p99(rate, 1000.0) <= 0.05);
            let (rate, missed) = (found.rate.unwrap(), found.missed_at.unwrap());
            assert!(rate <= knee && knee < missed, "{rate} {knee} {missed}");
            assert!(found.confirmed && found.precision().unwrap() <= 0.021, "{found:?}");
            assert_eq!(tried.iter().filter(|&&tried| tried == rate).count(), 2, "the last one is repeated: {tried:?}");
            assert!(tried.len() == found.probes && tried.len() <= 25, "{tried:?}");
        }
    }

    #[test]
    fn a_noisy_judge_is_asked_twice() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            // Each probe's P99 is off by up to 20%.
            let (found, tried) = run(PLAN, |rate| p99(rate, 1000.0) * (0.8 + 0.4 * random.unit()) <= 0.05);
            let rate = found.rate.unwrap();
            // What passes twice may be no further off than the noise: 50 ms / 0.8 is 926 requests a second.
            assert!(found.confirmed && rate < 927.0 && rate > 400.0, "seed {seed}: {found:?} {tried:?}");
        }
    }

    #[test]
    fn a_target_that_no_rate_meets_ends() {
        let (found, tried) = run(PLAN, |_| false);
        assert_eq!((found.rate, found.confirmed), (None, false));
        assert!(tried.len() <= 7, "{tried:?}");
    }

    #[test]
    fn a_target_that_every_rate_meets_ends_unconfirmed_at_the_last_probe() {
        let (found, _) = run(SearchPlan { max_probes: 12, ..PLAN }, |_| true);
        // 10 doubled eleven times, written with three digits each time.
        assert_eq!((found.rate, found.missed_at, found.probes), (Some(20_400.0), None, 12));
        assert!(!found.confirmed);
    }

    #[test]
    fn a_stop_keeps_what_was_found() {
        let mut left = 3;
        let found = search(PLAN, |_| {
            left -= 1;
            Ok::<_, Infallible>(if left < 0 { Verdict::Stop } else { Verdict::Met })
        });
        let Ok(found) = found;
        assert_eq!((found.rate, found.confirmed), (Some(40.0), false));
    }

    #[test]
    fn rates_are_written_with_three_digits() {
        for (rate, expected) in [(1234.5, 1230.0), (0.123_45, 0.123), (99.96, 100.0), (7.0, 7.0), (0.0, 0.0)] {
            assert_eq!(round(rate), expected);
        }
    }
}
