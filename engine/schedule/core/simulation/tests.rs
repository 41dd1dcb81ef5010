//! Thousands of scenarios, and a few that tell a story.

use super::*;

/// Runs a scenario; a panic names its seed.
fn run(scenario: Scenario) -> Outcome {
    let seed = scenario.seed;
    std::panic::catch_unwind(|| Simulation::new(scenario).run()).unwrap_or_else(|panic| {
        let told = panic.downcast_ref::<String>().cloned();
        let told = told.or_else(|| panic.downcast_ref::<&str>().map(|told| (*told).to_owned())).unwrap_or_default();
        panic!("{told}\nSIDEREAL_SEED={seed} runs this scenario alone");
    })
}

#[test]
fn promises_hold_in_any_order_of_events() {
    if let Ok(seed) = std::env::var("SIDEREAL_SEED") {
        run(Scenario::seeded(seed.parse().expect("SIDEREAL_SEED is a number")));
        return;
    }
    let mut sum = Outcome::default();
    for seed in 0..10_000 {
        let outcome = run(Scenario::seeded(seed));
        sum.turns += outcome.turns;
        sum.answered += outcome.answered;
        sum.reopened += outcome.reopened;
        sum.swapped += outcome.swapped;
        sum.not_swapped += outcome.not_swapped;
        sum.refused.iter_mut().zip(outcome.refused).for_each(|(sum, count)| *sum += count);
    }
    // All that can happen did happen, and often.
    assert!(sum.turns > 400_000 && sum.answered > 50_000 && sum.reopened > 500, "{sum:?}");
    assert!(sum.swapped > 1000 && sum.not_swapped > 50, "{sum:?}");
    for kind in [RefusalKind::Cancelled, RefusalKind::Deadline, RefusalKind::DeviceFailed, RefusalKind::TooLong] {
        assert!(sum.refused[kind as usize - 1] > 1000, "{kind:?}: {sum:?}");
    }
}

/// Everybody but the batch that met the error is served by the new device; a second loss within a minute ends it all.
#[test]
fn a_lost_device_comes_back_once_a_minute() {
    let scenario = |lose_at: &[u64], gap| {
        let mut scenario = Scenario::plain(0, 64, 64);
        scenario.temper.lose_at = lose_at.to_vec();
        scenario.requests = every(gap, 40, 64, PATIENT).collect();
        scenario
    };
    let failed = |outcome: &Outcome| outcome.refused[RefusalKind::DeviceFailed as usize - 1];
    for lose_at in 1..200 {
        let outcome = run(scenario(&[lose_at], Duration::ZERO));
        assert_eq!(outcome.answered + failed(&outcome), 40, "{outcome:?}");
        assert!(outcome.reopened == 1 && failed(&outcome) < 40, "lost at {lose_at}: {outcome:?}");
    }
    let outcome = run(scenario(&[50, 60], Duration::ZERO));
    assert!(outcome.reopened == 1 && failed(&outcome) > 20, "lost twice at once: {outcome:?}");
    let mut slow = scenario(&[50, 60], Duration::ZERO);
    slow.temper.open_ns = 100_000_000_000;
    let outcome = run(slow);
    assert!(outcome.reopened == 1 && failed(&outcome) > 20, "lost again as soon as it was open: {outcome:?}");
    let outcome = run(scenario(&[5, 150], Duration::from_secs(20)));
    assert!(outcome.reopened == 2 && failed(&outcome) == 2, "lost twice with minutes between: {outcome:?}");
}

/// Weights come while all slots are taken and others wait: who has a slot ends with the old ones, the others have the new, and
/// nobody is refused, however the new ones come to the device.
#[test]
fn other_weights_lose_nobody() {
    for (beside, at_us) in [true, false].into_iter().flat_map(|beside| (0..60).map(move |at| (beside, at * 100))) {
        let mut scenario = Scenario::plain(0, 64, 64);
        scenario.requests = every(Duration::from_micros(200), 40, 64, PATIENT).collect();
        scenario.swaps = vec![PlannedSwap { at: Duration::from_micros(at_us), beside }];
        let simulation = Simulation::new(scenario);
        let world = simulation.world.clone();
        let outcome = simulation.run();
        assert_eq!((outcome.answered, outcome.swapped), (40, 1), "{outcome:?}");
        let world = world.lock();
        let with = |number| world.known.iter().filter(|known| known.policy == Some(number)).count();
        let (old, new) = (with(0), with(1));
        assert!(old + new == 40 && new > 0 && (at_us < 1000 || old > 0), "{old} old, {new} new at {at_us} us");
    }
}

/// A deadline that passes while other weights are waited for is told at once, and does not wait for them.
#[test]
fn deadlines_pass_while_weights_are_waited_for() {
    let mut scenario = Scenario::plain(0, 64, 64);
    scenario.shape.slots = 1;
    scenario.temper.launch_ns = 10_000_000;
    scenario.requests = every(Duration::ZERO, 1, 64, PATIENT).collect();
    scenario.requests.extend(every(Duration::ZERO, 1, 64, Duration::from_millis(25)));
    scenario.swaps = vec![PlannedSwap { at: Duration::from_millis(1), beside: true }];
    let outcome = run(scenario);
    assert_eq!((outcome.answered, outcome.swapped), (1, 1), "{outcome:?}");
    assert_eq!(outcome.refused[RefusalKind::Deadline as usize - 1], 1, "{outcome:?}");
}

/// The device is lost while requests end on it before a swap: they start over with the old weights, and the swap comes after.
#[test]
fn a_device_is_lost_while_weights_are_waited_for() {
    for (beside, lose_at) in [true, false].into_iter().flat_map(|beside| (1..200).map(move |at| (beside, at))) {
        let mut scenario = Scenario::plain(0, 64, 64);
        scenario.temper.lose_at = vec![lose_at];
        scenario.requests = every(Duration::ZERO, 40, 64, PATIENT).collect();
        scenario.swaps = vec![PlannedSwap { at: Duration::from_millis(1), beside }];
        let outcome = run(scenario);
        let failed = outcome.refused[RefusalKind::DeviceFailed as usize - 1];
        assert_eq!((outcome.answered + failed, outcome.swapped), (40, 1), "lost at {lose_at}: {outcome:?}");
        assert!(outcome.reopened == 1 && failed < 40, "lost at {lose_at}: {outcome:?}");
    }
}

#[test]
fn a_seed_is_a_scenario() {
    for seed in 0..100 {
        assert_eq!(run(Scenario::seeded(seed)), run(Scenario::seeded(seed)), "seed {seed}");
    }
}

#[test]
fn the_patient_are_served_when_nothing_fails() {
    for seed in 0..500 {
        let mut scenario = Scenario::seeded(seed);
        (scenario.temper.faults, scenario.temper.losses, scenario.close_at) = (0, 0, None);
        let (rows, tokens) = (scenario.shape.cohort_rows, scenario.shape.history_pages * scenario.shape.page_tokens);
        scenario.requests.retain(|r| r.beams <= rows && (1..=tokens).contains(&r.tokens));
        for request in &mut scenario.requests {
            (request.allowed, request.cancel_at) = (PATIENT, None);
        }
        let asked = scenario.requests.len() as u64;
        assert_eq!(run(scenario).answered, asked, "seed {seed}");
    }
}

fn every(gap: Duration, count: u32, tokens: usize, allowed: Duration) -> impl Iterator<Item = Planned> {
    (0..count).map(move |n| Planned {
        at: gap * n,
        tokens,
        beams: 4,
        list: None,
        allowed,
        cancel_at: None,
        snapshot: 0,
    })
}

/// An endless stream of requests that are always more urgent: whoever can wait longer comes to be the most urgent in time.
/// With room for everybody all are served; without it, everybody still has an answer when the deadline comes.
#[test]
fn a_stream_of_urgent_requests_starves_nobody() {
    for (gap_us, overloaded) in [(1000, false), (50, true)] {
        let mut scenario = Scenario::plain(0, 64, 64);
        scenario.requests = every(Duration::from_micros(gap_us), 3000, 64, Duration::from_millis(5)).collect();
        scenario.requests.extend(every(Duration::from_millis(10), 10, 64, Duration::from_millis(50)));
        scenario.requests.sort_by_key(|request| request.at);
        let simulation = Simulation::new(scenario);
        let (world, asked) = (simulation.world.clone(), simulation.scenario.requests.clone());
        let outcome = simulation.run();
        let late = outcome.refused[RefusalKind::Deadline as usize - 1];
        assert_eq!(late > 1000, overloaded, "{outcome:?}");
        let world = world.lock();
        // An overloaded device works for those whom it can still serve: 20 of the 170 that it computed were once in time.
        let computed = world.known.iter().filter(|known| known.read.is_some()).count() as u64;
        assert!(outcome.answered > 150 && computed < outcome.answered + 20, "{computed} computed, {outcome:?}");
        for (planned, known) in asked.iter().zip(&world.known) {
            let (kind, message, when) = &known.answers[0];
            let patient = planned.allowed > Duration::from_millis(5);
            assert!(overloaded || !patient || kind.is_none(), "{message}");
            let latest = world.start() + planned.at + planned.allowed + Duration::from_millis(3);
            assert!(*when < latest, "{message}");
        }
    }
}

/// The first launches took a thousand times as long as they ever will again (a suspended machine, cold pages). A cost model
/// that believed them refused everything from then on, and so never learnt better.
#[test]
fn a_bad_start_does_not_refuse_for_ever() {
    let mut scenario = Scenario::plain(0, 64, 64);
    scenario.temper.slow_ops = 200;
    scenario.requests = every(Duration::ZERO, 20, 64, PATIENT).collect();
    let after = every(Duration::from_millis(20), 200, 64, Duration::from_millis(15));
    scenario.requests.extend(after.map(|r| Planned { at: r.at + Duration::from_secs(60), ..r }));
    let outcome = run(scenario);
    assert!(outcome.answered > 180, "{outcome:?}");
}
