//! The thread of a replacement, with a stand-in for the engine thread.

use crossbeam_channel::Receiver;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn no_room() -> LoadError {
    let (what, reason) = ("weights".into(), "it was told to".into());
    LoadError::Device(DeviceError::OutOfMemory { what, bytes: 1, reason })
}

/// A replacer whose files are what `prepare` says, and where swaps arrive.
fn replacer(
    prepare: impl Fn() -> Result<Reopen, LoadError> + Send + Sync + 'static,
) -> (Arc<Replacer>, Receiver<Swap>) {
    let (to_swap, swaps) = bounded(1);
    let prepare: Prepare = Box::new(move |_, _| prepare());
    (Arc::new(Replacer::new(Policy::default(), prepare, Opening::default(), to_swap)), swaps)
}

fn begin(replacer: &Replacer) -> u64 {
    replacer.begin(Path::new("/weights"), "v").unwrap()
}

fn ended(replacer: &Replacer) -> WeightsStatus {
    let until = Instant::now() + PATIENCE;
    while replacer.status().last.is_none_or(|last| last.took.is_none()) {
        assert!(Instant::now() < until, "it never ends");
        std::thread::sleep(Duration::from_millis(1));
    }
    replacer.status()
}

fn error_of(status: &WeightsStatus) -> &str {
    match &status.last.as_ref().unwrap().stage {
        Stage::Failed { error } => error,
        other => panic!("{other:?}"),
    }
}

/// A card that holds one model, not two: the engine thread is asked to do it in the old one's place.
#[test]
fn what_does_not_fit_beside_the_old_weights_takes_their_place() {
    let (replacer, swaps) = replacer(|| Ok(Box::new(|| Err(no_room()))));
    assert_eq!(begin(&replacer), 1);
    let swap = swaps.recv_timeout(PATIENCE).unwrap();
    assert!(swap.hardware.is_none());
    assert_eq!(replacer.status().last.unwrap().stage, Stage::Switching);
    assert_eq!(replacer.begin(Path::new("/weights"), "w"), Err(ReplaceError::Busy { number: 1 }));
    let pause = Duration::from_millis(3);
    swap.told.send(Swapped { leftover: (None, swap.reopen), pause, outcome: Ok(()) }).unwrap();
    let status = ended(&replacer);
    assert_eq!(status.serving, Policy { number: 1, version: "v".into() });
    assert_eq!(status.last.unwrap().stage, Stage::Serving { pause, beside: false });

    assert_eq!(begin(&replacer), 2);
    let swap = swaps.recv_timeout(PATIENCE).unwrap();
    swap.told.send(Swapped { leftover: (None, swap.reopen), pause, outcome: Err(no_room()) }).unwrap();
    let status = ended(&replacer);
    assert!(error_of(&status).contains("device memory"));
    assert_eq!((status.serving.number, status.replaced, status.failed), (1, 1, 1));
}

/// Whatever a replacement comes to, the next one can be begun.
#[test]
fn a_failure_is_told_and_is_not_the_end() {
    let refuses = || -> Result<Reopen, LoadError> { Err(LoadError::Unsupported("these are not the weights".into())) };
    let does_not_open =
        || -> Result<Reopen, LoadError> { Ok(Box::new(|| Err(DeviceError::Unavailable("no card".into()).into()))) };
    let panics = || -> Result<Reopen, LoadError> { panic!("it was told to") };
    for (told, (replacer, swaps)) in [
        ("not the weights", replacer(refuses)),
        ("no card", replacer(does_not_open)),
        ("fault of its own", replacer(panics)),
    ] {
        for number in 1..3 {
            assert_eq!(begin(&replacer), number);
            let status = ended(&replacer);
            assert!(error_of(&status).contains(told), "{}", error_of(&status));
            assert_eq!((status.failed, status.serving.number), (number, 0));
        }
        assert!(swaps.is_empty(), "the engine thread hears of none of it");
    }
}

#[test]
fn an_engine_that_ends_gives_up_what_is_under_way() {
    let (replacer, swaps) = replacer(|| Ok(Box::new(|| Err(no_room()))));
    begin(&replacer);
    // The engine thread ends with the swap undone.
    drop(swaps.recv_timeout(PATIENCE).unwrap());
    replacer.end();
    let status = replacer.status();
    assert!(error_of(&status).contains("draining"));
    assert_eq!(replacer.begin(Path::new("/weights"), "v"), Err(ReplaceError::Unavailable(DRAINING.into())));
}
