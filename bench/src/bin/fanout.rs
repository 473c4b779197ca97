//! What it costs to tell everybody: a replica under load, beside the least that a server could do, `make bench`.
//!
//! `bench/README.md` says what each row means, what may be chosen, and what the last figures were.

use std::env;
use std::fs;

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::system::uname;
use serde_json::json;

use tidings_bench::capacity;
use tidings_bench::cores::Cores;
use tidings_bench::measure::RESOLUTION;
use tidings_bench::options::Options;
use tidings_bench::peers::{BECOME, Peer};
use tidings_bench::process::target;
use tidings_bench::relay;
use tidings_bench::rows::{APPEND, Bench, TIDINGS};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    raise_open_files();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [BECOME, peer] => Peer::run(peer),
        [relay::BECOME, nats] => relay::run(nats),
        [] => bench(),
        _ => bail!("it takes no arguments: bench/README.md lists the variables that it reads"),
    }
}

/// A connection is a file, in the server as in the load.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // What is not allowed shows when the files run out, which is said then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn bench() -> anyhow::Result<()> {
    let options = Options::of_environment()?;
    let cores = Cores::share_out(options.pin)?;
    let around = format!("{}; {cores}.\n{RESOLUTION}.", machine());
    println!("{around}");
    let chosen = format!("{options:?}");
    let mut bench = Bench::new(options, cores);
    let ran = bench.run();
    // What was measured before something went wrong is shown too.
    println!("{}", bench.table.markdown());
    if let Some(model) = capacity::model(&bench.table, TIDINGS, APPEND) {
        println!("{model}");
    }
    let json = json!({"around": around, "options": chosen, "lines": bench.table.json()});
    let file = target()?.join("bench/fanout.json");
    fs::create_dir_all(file.parent().context("it is in a folder")?)?;
    fs::write(&file, format!("{json:#}\n"))?;
    println!("Every round: {}", file.display());
    let faults: Vec<_> = bench.table.faults().collect();
    match &faults[..] {
        [] => ran,
        faults => {
            // The first trouble is the one that everything else came of.
            let ended = ran.err().map(|error| format!("{error:#}"));
            let all: Vec<_> = faults.iter().map(ToString::to_string).chain(ended).collect();
            bail!("not everybody got each broadcast once and in order:\n{}", all.join("\n"))
        }
    }
}

/// What it runs on.
fn machine() -> String {
    let cores = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cores.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = model.map_or("an unknown processor", |(_, name)| name);
    format!("{name}, Linux {}", uname().release().to_string_lossy())
}
