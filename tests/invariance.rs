//! The result section of a reply does not depend on what else is in the batch, on the order of arrival, on the chunking of
//! prefill, on the number of threads or on the paging: bit for bit.

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use common::{Seeded, engine, golden, prompt_request, small_limits};
use sidereal::client::{Client, ClientOptions};
use sidereal::device::Dtype;
use sidereal::request::{Ranked, Recommendation, Request};
use sidereal::sampling::{Sampling, SamplingKind};
use sidereal::schedule::{Engine, Limits};
use sidereal::serve::{Server, ServerConfig, Service};

/// Mixed lengths, beam widths and kinds of sampling over a vocabulary of `vocabulary` tokens.
fn requests(vocabulary: u64, count: u64) -> Vec<Request> {
    let mut seeded = Seeded(7);
    let lengths = [1, 2, 63, 64, 65, 127, 200, 300, 600, 17];
    let widths = [1, 4, 32, 128, 7, 100];
    (0..count)
        .map(|id| {
            let length = lengths[seeded.below(lengths.len() as u64) as usize];
            let beams = widths[seeded.below(widths.len() as u64) as usize];
            let tokens = (0..length).map(|_| seeded.below(vocabulary) as u32).collect();
            let kind = [None, Some(SamplingKind::Independent), Some(SamplingKind::Distinct)][id as usize % 3];
            let sampling = kind.map(|kind| Sampling { kind, seed: id, temperature: 0.8 });
            Request { sampling, log_probs: id % 2 == 0, ..prompt_request(id, tokens, beams) }
        })
        .collect()
}

/// Semantic ID, score as bits, items, key and log-probabilities as bits.
type Entry = (Vec<u16>, u32, Vec<u64>, Option<u32>, Vec<[u32; 2]>);

/// The part of an answer that must not change.
fn result_section(answer: &Recommendation) -> Vec<Entry> {
    let ids = |items: &[sidereal::request::Item]| items.iter().map(|item| item.id).collect();
    let log_probs = |r: &Ranked| r.log_probs.iter().map(|of| [of.behaviour.to_bits(), of.raw.to_bits()]).collect();
    let entry = |r: &Ranked| (r.sid.clone(), r.score.to_bits(), ids(&r.items), r.key.map(f32::to_bits), log_probs(r));
    answer.results.iter().map(entry).collect()
}

fn alone(engine: &Engine, requests: &[Request]) -> Vec<Vec<Entry>> {
    requests.iter().map(|request| result_section(&engine.recommend(request.clone()).unwrap())).collect()
}

fn together(engine: &Engine, requests: &[Request], order: &[usize]) -> Vec<Vec<Entry>> {
    let (send, receive) = crossbeam_channel::bounded(requests.len());
    for &index in order {
        let send = send.clone();
        let done = Box::new(move |answer| send.send((index, answer)).unwrap());
        engine.submit(requests[index].clone(), Instant::now(), Arc::new(AtomicBool::new(false)), done);
    }
    let mut answers = vec![Vec::new(); requests.len()];
    for _ in 0..requests.len() {
        let (index, answer) = receive.recv().unwrap();
        answers[index] = result_section(&answer.unwrap());
    }
    answers
}

fn check(name: &str, vocabulary: u64, dtype: Dtype) {
    let requests = requests(vocabulary, 24);
    let export = golden(name);
    let reference = alone(&engine(&export, dtype, 1, small_limits()), &requests);
    assert!(reference.iter().all(|results| !results.is_empty()));
    let variants = [
        (2, small_limits()),
        (3, Limits { max_prefill_tokens: 48, max_cohort_rows: 128, ..small_limits() }),
        (2, Limits { max_sequences: 3, max_cohorts: 1, page_tokens: 64, ..small_limits() }),
    ];
    for (threads, limits) in variants {
        let engine = engine(&export, dtype, threads, limits);
        let mut seeded = Seeded(threads as u64);
        for round in 0..3 {
            let mut order: Vec<usize> = (0..requests.len()).collect();
            for at in (1..order.len()).rev() {
                order.swap(at, seeded.below(at as u64 + 1) as usize);
            }
            let batched = together(&engine, &requests, &order);
            for (index, (batched, alone)) in batched.iter().zip(&reference).enumerate() {
                assert_eq!(batched, alone, "{name} {dtype:?}: request {index}, {threads} threads, round {round}");
            }
        }
        let stats = engine.stats();
        let (requests, cohorts) = (stats["cohort_requests"].as_u64().unwrap(), stats["cohorts"].as_u64().unwrap());
        assert!(requests > cohorts, "requests were never batched: {stats}");
    }
}

#[test]
fn encoder_decoder_f32() {
    check("t5-gated", 80, Dtype::F32);
}

#[test]
fn encoder_decoder_bf16() {
    check("t5-relu", 80, Dtype::Bf16);
}

#[test]
fn decoder_only_f32() {
    check("qwen3-gqa", 200, Dtype::F32);
    check("llama-biases", 80, Dtype::F32);
}

#[test]
fn decoder_only_bf16() {
    check("qwen3-gqa", 200, Dtype::Bf16);
    check("llama-biases", 80, Dtype::Bf16);
}

/// The same through the socket: three clients, each pipelining its share in an order of its own.
#[test]
fn over_the_socket() {
    let requests = requests(200, 24);
    let engine = Arc::new(engine(&golden("qwen3-gqa"), Dtype::F32, 2, small_limits()));
    let reference = alone(&engine, &requests);
    let config = ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]);
    let server = Server::start(config, Arc::clone(&engine) as Arc<dyn Service>).unwrap();
    let address = &server.addresses()[0];
    std::thread::scope(|scope| {
        for share in 0..3 {
            let (requests, reference) = (&requests, &reference);
            scope.spawn(move || {
                let mut client = Client::connect(address, &ClientOptions::default()).unwrap();
                let mine: Vec<&Request> = requests.iter().skip(share).step_by(3).collect();
                let order: Vec<&&Request> =
                    if share == 1 { mine.iter().rev().collect() } else { mine.iter().collect() };
                for request in &order {
                    client.send(request).unwrap();
                }
                for _ in &order {
                    let (id, answer) = client.receive().unwrap();
                    assert_eq!(result_section(&answer.unwrap()), reference[id as usize], "request {id}");
                }
            });
        }
    });
}
