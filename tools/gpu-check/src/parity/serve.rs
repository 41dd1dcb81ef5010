//! End to end: a server on the card, asked one request at a time, then all at once. Answers must be the same, bit for bit.

use std::io::{BufRead, BufReader};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sidereal::client::{Client, ClientOptions};
use sidereal::export::Export;
use sidereal::request::{Answer, History, Ranked, Request};
use sidereal::serve::Address;

use crate::error::CheckError;
use crate::process;
use crate::report::{Section, Table, Verdict};
use crate::setting::Setting;

/// What is asked.
#[derive(Clone, Copy, Debug)]
struct Questions {
    count: usize,
    most_tokens: usize,
    beams: u32,
}

const FULL: Questions = Questions { count: 64, most_tokens: usize::MAX, beams: 64 };
const REHEARSED: Questions = Questions { count: 3, most_tokens: 6, beams: 4 };
/// For the server to come up, and again to go down.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, stopped when dropped.
struct Server {
    child: Child,
    address: Address,
}

impl Server {
    fn start(setting: &Setting, dtype: &str) -> Result<Server, CheckError> {
        let mut command = setting.command("sidereal")?;
        command.arg("serve").arg(setting.demo()).args(["--device", "cuda", "--dtype", dtype, "--json"]);
        command.args(["--listen", "127.0.0.1:0", "--default-deadline", "300s"]);
        command.args(["--max-prompt-tokens", "1024", "--max-cohort-rows", "256", "--max-beams", "256"]);
        command.args(["--max-sequences", "8", "--kv-bytes", "64MiB", "--max-denied-items", "1000"]);
        let mut child = process::start(&mut command)?;
        // Read in a thread, so that the log's pipe never fills.
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let log = std::thread::spawn(move || {
            let lines = stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok));
            lines.fold(Vec::new(), |mut last: Vec<String>, line| {
                last.push(line);
                last.drain(..last.len().saturating_sub(8));
                last
            })
        });
        let mut line = String::new();
        let read = stdout.map(|pipe| BufReader::new(pipe).read_line(&mut line));
        let announced: Value = serde_json::from_str(&line).unwrap_or_default();
        let address = announced["listening"][0].as_str().and_then(|text| text.parse().ok());
        match (read, address) {
            (Some(Ok(_)), Some(address)) => Ok(Server { child, address }),
            _ => {
                process::signal_group(&child, "KILL");
                let _ = child.wait();
                let last = log.join().unwrap_or_default().join("\n");
                Err(CheckError::Answer(format!("the server did not start: {last}")))
            }
        }
    }

    /// Asks it to drain, and waits.
    fn stop(mut self) -> Option<ExitStatus> {
        process::signal_group(&self.child, "TERM");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Err(_) => return None,
            }
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            process::signal_group(&self.child, "KILL");
            let _ = self.child.wait();
        }
    }
}

/// Runs a server in each type.
pub fn section(setting: &Setting) -> Result<Section, CheckError> {
    let mut section = Section::new("end to end: a server asked alone and by many at once", Verdict::Passed);
    let mut table = Table::new("server", &["dtype", "requests", "answered", "same alone and together", "ended well"]);
    let questions = if setting.is_rehearsal { REHEARSED } else { FULL };
    let requests = requests(setting, questions)?;
    for dtype in ["f32", "bf16"] {
        let (answered, same, ended) = one_server(setting, dtype, &requests, &mut section.notes)?;
        if answered < requests.len() || !same || !ended {
            section.verdict = Verdict::Failed;
        }
        table.rows.push(vec![json!(dtype), json!(requests.len()), json!(answered), json!(same), json!(ended)]);
    }
    section.tables.push(table);
    Ok(section)
}

/// Prompts of the demo's goldens.
fn requests(setting: &Setting, questions: Questions) -> Result<Vec<Request>, CheckError> {
    let cases = Export::open(setting.demo())?.goldens()?.unwrap_or_default();
    if cases.is_empty() {
        return Err(CheckError::Missing("the demo has no golden cases to ask".to_owned()));
    }
    let request = |(id, case): (usize, &sidereal::export::GoldenCase)| {
        // Later rounds ask for less of the same prompts, so that lengths differ within a batch.
        let most = questions.most_tokens.min(case.tokens.len() - (id / cases.len()) % case.tokens.len().max(1));
        let tokens = case.tokens[..most.max(1)].to_vec();
        Request::new(id as u64, History::Tokens(tokens), questions.beams, questions.beams)
    };
    Ok(cases.iter().cycle().take(questions.count).enumerate().map(request).collect())
}

/// How many were answered, whether alike, and whether the server drained.
fn one_server(
    setting: &Setting,
    dtype: &str,
    requests: &[Request],
    notes: &mut Vec<String>,
) -> Result<(usize, bool, bool), CheckError> {
    let server = Server::start(setting, dtype)?;
    let failed = |error: sidereal::client::ClientError| CheckError::Answer(format!("client: {error}"));
    let options = ClientOptions { timeout: Some(Duration::from_secs(300)), ..ClientOptions::default() };
    let mut client = Client::connect(&server.address, &options).map_err(failed)?;
    let mut alone = Vec::with_capacity(requests.len());
    for request in requests {
        alone.push(client.recommend(request).map_err(failed)?);
    }
    for request in requests {
        client.send(request).map_err(failed)?;
    }
    let mut together: Vec<Option<Answer>> = vec![None; requests.len()];
    for _ in requests {
        let (id, answer) = client.receive().map_err(failed)?;
        together[id as usize] = Some(answer);
    }
    let refusals = alone.iter().chain(together.iter().flatten()).filter_map(|answer| answer.as_ref().err());
    if let Some(refusal) = refusals.into_iter().next() {
        notes.push(format!("{dtype}: {}: {}", refusal.kind.name(), refusal.message));
    }
    let pairs = || std::iter::zip(&alone, together.iter().flatten());
    let answered = pairs().filter(|(alone, together)| alone.is_ok() && together.is_ok()).count();
    let same = pairs().all(|(alone, together)| match (alone, together) {
        (Ok(alone), Ok(together)) => !alone.results.is_empty() && are_same(&alone.results, &together.results),
        _ => false,
    });
    drop(client);
    let ended = server.stop().is_some_and(|status| status.success());
    Ok((answered, same, ended))
}

/// Bit for bit.
fn are_same(a: &[Ranked], b: &[Ranked]) -> bool {
    let same =
        |(a, b): (&Ranked, &Ranked)| a.sid == b.sid && a.score.to_bits() == b.score.to_bits() && a.items == b.items;
    a.len() == b.len() && std::iter::zip(a, b).all(same)
}
