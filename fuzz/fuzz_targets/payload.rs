//! Payloads of any shape: reading them never panics, an error repeats nothing of them, and a job's key survives being written down.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_core::autoscale::reservation::{EntryName, JobKey};
use muster_github::events::{Event, parse};

fuzz_target!(|body: &[u8]| {
    match parse("workflow_job", body) {
        Ok(Event::WorkflowJob(payload)) => {
            assert!(!payload.repository.name.is_empty() && !payload.repository.owner.login.is_empty());
            let key = JobKey::new(None, payload.repository.id, payload.workflow_job.id);
            assert_eq!(JobKey::parse(&key.to_string()), Some(key.clone()));
            let runner = payload.workflow_job.runner_name.as_deref();
            let name = key.entry_name(runner);
            let entry = EntryName::parse(&name).expect("an entry's name can be read");
            assert_eq!((entry.key, entry.runner), (key, runner.filter(|runner| !runner.is_empty())));
        }
        Ok(other) => panic!("a workflow_job was read as {other:?}"),
        Err(error) => assert!(error.to_string().len() < 200),
    }
    drop(parse("ping", body));
    if let Ok(name) = std::str::from_utf8(body) {
        drop(parse(name, b"{}"));
        drop(EntryName::parse(name));
        drop(muster_core::go::parse_duration(name));
    }
});
