//! A server on a free loopback port and a client that asks it, many requests at a time.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::Failure;
use crate::client::{Client, ClientOptions};
use crate::request::{Answer, Request};
use crate::schedule::Engine;
use crate::serve::{Address, Server, ServerConfig};

/// Longest wait of the server's end: everything has been answered by then.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A server and a client connected to it.
pub struct Line {
    server: Server,
    client: Client,
    address: Address,
}

impl Line {
    /// Starts the server and connects.
    pub fn open(engine: Arc<Engine>) -> Result<Line, Failure> {
        let any = Address::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let mut config = ServerConfig::new(vec![any]);
        config.limits = engine.limits().clone();
        let server = Server::start(config, engine)?;
        let address = server.addresses().first().cloned();
        let address = address.ok_or_else(|| Failure::environment("the server listens nowhere"))?;
        let client = Client::connect(&address, &ClientOptions::default())?;
        Ok(Line { server, client, address })
    }

    /// Where the server listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Asks `requests`, whose ids are their positions, `width` at a time. `each` gets position, answer and latency as the
    /// answers come in.
    pub fn ask(
        &mut self,
        requests: Vec<Request>,
        width: usize,
        mut each: impl FnMut(usize, Answer, Duration),
    ) -> Result<(), Failure> {
        let mut waiting = requests.into_iter();
        let mut sent: HashMap<u64, Instant> = HashMap::with_capacity(width);
        loop {
            while sent.len() < width
                && let Some(request) = waiting.next()
            {
                // The clock starts before the request is written: latency is what a caller waits.
                sent.insert(request.id, Instant::now());
                self.client.send(&request)?;
            }
            if sent.is_empty() {
                return Ok(());
            }
            let (id, answer) = self.client.receive()?;
            let began = sent.remove(&id).ok_or_else(|| {
                Failure::environment(format!("the server answered request {id}, which waits for none"))
            })?;
            each(id as usize, answer, began.elapsed());
        }
    }

    /// Ends both.
    pub fn close(self) -> Result<(), Failure> {
        let Line { server, mut client, .. } = self;
        client.goodbye()?;
        server.drain(DRAIN_TIMEOUT);
        Ok(server.join()?)
    }
}
