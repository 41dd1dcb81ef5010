//! A running `sidereal serve`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use sidereal::client::{Client, ClientOptions};
use sidereal::serve::wire::Secret;

use super::{Ran, command, finish, golden_arg};

/// A server that is killed if a test fails.
pub struct Serving {
    child: Option<Child>,
    stdout: BufReader<ChildStdout>,
    /// The line that says what is served and where.
    pub hello: Value,
}

impl Serving {
    pub fn start(args: &[&str]) -> Serving {
        Serving::of(&golden_arg("t5-relu"), args)
    }

    pub fn of(export: &str, args: &[&str]) -> Serving {
        let mut all = vec!["serve", export, "--json", "--threads", "1", "--log-format", "json"];
        all.extend(args);
        let mut child = command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        if line.is_empty() {
            let ran = finish(child);
            panic!("the server did not start ({:?}): {}", ran.code, ran.stderr);
        }
        Serving { hello: serde_json::from_str(&line).unwrap(), child: Some(child), stdout }
    }

    pub fn connect(&self, at: usize, secret: Option<&[u8]>) -> Client {
        let address = self.hello["listening"][at].as_str().unwrap().parse().unwrap();
        let secret = secret.map(|secret| Secret::from_text(secret).unwrap());
        let options = ClientOptions { secret, ..ClientOptions::default() };
        Client::connect(&address, &options).unwrap()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub fn finish(mut self) -> Ran {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "stdout carries the one line only");
        finish(self.child.take().unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
