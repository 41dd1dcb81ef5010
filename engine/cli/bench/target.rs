//! The server under load: one that runs somewhere, or one of the bench's own behind a loopback socket. Either way nothing but
//! the wire protocol is spoken.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::BenchArgs;
use crate::bench::load::Target;
use crate::bench::workload::{Vocabulary, Workload};
use crate::cli::serve::read_secret;
use crate::cli::{Failure, style};
use crate::client::{Client, ClientOptions};
use crate::export::Export;
use crate::request::RefusalKind;
use crate::schedule::{Engine, open_catalog};
use crate::serve::wire::HelloOk;
use crate::serve::{Address, Server, ServerConfig, Service};

/// Longest wait for the end of the bench's own server: nobody waits for what it still computes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The server under load.
pub struct Served {
    /// How to reach it.
    pub target: Target,
    /// What its export is made of, where that is known.
    pub vocabulary: Option<Vocabulary>,
    own: Option<(Server, Arc<Engine>)>,
}

impl Served {
    /// Finds or starts it.
    pub fn open(args: &BenchArgs) -> Result<Served, Failure> {
        let secret = args.secret_file.as_deref().map(read_secret).transpose()?;
        let options = ClientOptions { secret, timeout: Some(args.load.timeout), ..ClientOptions::default() };
        let target = |address| Target { address, options, connections: usize::from(args.load.connections) };
        let export = args.export.as_deref();
        if let Some(address) = &args.address {
            let vocabulary = export.map(|export| read_vocabulary(export, args)).transpose()?;
            return Ok(Served { target: target(address.clone()), vocabulary, own: None });
        }
        let export = export.ok_or_else(|| Failure::usage("neither an export nor an --address was given"))?;
        let waiting = style::spinner("loading");
        let config = args.engine.serving(export);
        let engine = Arc::new(Engine::start(&config)?);
        let mut sockets = ServerConfig::new(vec![Address::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]);
        sockets.limits = config.limits.clone();
        let server = Server::start(sockets, Arc::clone(&engine) as Arc<dyn Service>)?;
        waiting.finish_and_clear();
        let address = server.addresses().first().cloned();
        let address = address.ok_or_else(|| Failure::environment("the server listens nowhere"))?;
        let vocabulary = Some(Vocabulary::new(Arc::clone(engine.catalog()), Export::open(export)?.manifest()));
        Ok(Served { target: target(address), vocabulary, own: Some((server, engine)) })
    }

    /// Where it is, for people.
    pub fn describe(&self) -> String {
        let address = &self.target.address;
        match &self.own {
            Some((_, engine)) => format!("of the bench's own, {} threads, over {address}", engine.facts().threads),
            None => address.to_string(),
        }
    }

    /// Asks one request of each kind, alone: what the server will never take is said before the load starts.
    pub fn try_out(&self, workload: &Workload) -> Result<HelloOk, Failure> {
        let mut client = Client::connect(&self.target.address, &self.target.options)?;
        for (id, mut request) in workload.examples().into_iter().enumerate() {
            request.id = id as u64;
            request.deadline = None;
            let Err(refusal) = client.recommend(&request)? else { continue };
            let hopeless = [
                RefusalKind::BadRequest,
                RefusalKind::TooLong,
                RefusalKind::UnknownItem,
                RefusalKind::Unsupported,
                RefusalKind::ShuttingDown,
                RefusalKind::DeviceFailed,
            ];
            if hopeless.contains(&refusal.kind) {
                let beams = request.beams;
                return Err(Failure::bad(format!("the server refuses a request of {beams} beams: {refusal}")));
            }
        }
        Ok(client.hello().clone())
    }

    /// Ends the bench's own server.
    pub fn close(self) -> Result<(), Failure> {
        if let Some((server, engine)) = self.own {
            server.drain(DRAIN_TIMEOUT);
            server.join()?;
            engine.drain();
        }
        Ok(())
    }
}

/// The catalogue and the token numbers of an export that somebody else serves.
fn read_vocabulary(export: &Path, args: &BenchArgs) -> Result<Vocabulary, Failure> {
    let export = Export::open(export)?;
    let catalog = open_catalog(&export, args.engine.catalog.as_deref())?;
    Ok(Vocabulary::new(Arc::new(catalog), export.manifest()))
}
