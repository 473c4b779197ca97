//! What it costs to tell everybody: a replica under load, beside the least that a server could do, `make bench`.
//!
//! `README.md` beside this says what each row means, what may be chosen, and what the last figures were.

mod fanout {
    pub mod caller;
    pub mod capacity;
    pub mod cores;
    pub mod flood;
    pub mod frames;
    pub mod heard;
    pub mod identity;
    pub mod load;
    pub mod logs;
    pub mod measure;
    pub mod options;
    pub mod peers;
    pub mod relay;
    pub mod replica;
    pub mod rows;
    pub mod statistics;
    pub mod table;
}

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::system::uname;
use serde_json::json;

use fanout::capacity;
use fanout::cores::Cores;
use fanout::measure::RESOLUTION;
use fanout::options::Options;
use fanout::peers::{BECOME, Peer};
use fanout::relay;
use fanout::rows::{APPEND, Bench, TIDINGS};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    raise_open_files();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [BECOME, peer] => Peer::run(peer),
        [relay::BECOME, nats] => relay::run(nats),
        // `cargo test --benches` runs this too, and is no benchmark.
        ref others if !others.contains(&"--bench") => Ok(()),
        _ => bench(),
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
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench").join("fanout.json");
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
