//! The command line: kubectl's flags for where, a subcommand for what.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use muster_core::go::parse_duration;

/// Why a pool, a runner or a job waits; what is wrong with the installation; back to ARC. Only handback writes.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kubectl-muster",
    bin_name = "kubectl muster",
    version,
    arg_required_else_help = true
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where to ask, as kubectl says it.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct ClusterArgs {
    /// Kubeconfig file; else KUBECONFIG, else ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace; else the context's.
    #[arg(long, short = 'n', global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// All namespaces.
    #[arg(long, short = 'A', global = true, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what is wanted, what there is, why nothing more happens, until when, and what to do.
    Explain(ExplainArgs),
    /// Show pools, runners, queue and budgets, again and again until Ctrl-C.
    Top(TopArgs),
    /// Look for what is wrong with the installation and its objects, and say what to do.
    Doctor(DoctorArgs),
    /// Take away what ARC does not understand, so that it can take over again.
    Handback(HandbackArgs),
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// A RunnerDeployment, RunnerSet or HorizontalRunnerAutoscaler.
    Pool,
    /// A Runner or its pod.
    Runner,
    /// A job: its key (repository id/job id), its id, or its address on GitHub.
    Job,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `explain`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    /// What kind of thing.
    #[arg(value_enum)]
    pub(crate) what: What,
    /// Which one.
    pub(crate) name: String,
    /// How to print.
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `top`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct TopArgs {
    /// Print once; so it is where there is no terminal.
    #[arg(long)]
    pub(crate) once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) interval: u64,
    /// How to print; JSON prints once.
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub(crate) output: Format,
    /// The manager's metrics, for the GitHub budgets; kubectl port-forward makes them reachable.
    #[arg(long, value_name = "URL")]
    pub(crate) manager_metrics: Option<String>,
}

/// `doctor`.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// How to print.
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Also fail (exit code 3) when there are warnings only.
    #[arg(long)]
    pub(crate) strict: bool,
    /// How long a deletion may take before it counts as stuck: 10m, 1h30m.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(crate) stuck_after: SignedDuration,
}

/// `handback`. Handles the namespace, or with -A all of them.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct HandbackArgs {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Deployment of the manager or the webhook server to be scaled to 0 first; may be repeated.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced)]
    pub(crate) stop: Vec<(String, String)>,
    /// Go on although a manager or webhook server runs that may write again.
    #[arg(long)]
    pub(crate) force: bool,
    /// Also remove settings that people wrote and ARC does not read.
    #[arg(long)]
    pub(crate) drop_settings: bool,
    /// How to print.
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub(crate) output: Format,
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

fn namespaced(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("write it as namespace/name".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_kubectls() {
        Args::command().debug_assert();
        let args = Args::parse_from([
            "kubectl-muster",
            "explain",
            "job",
            "1/2",
            "-n",
            "ci",
            "-o",
            "json",
            "--context",
            "prod",
        ]);
        assert_eq!(args.cluster.namespace.as_deref(), Some("ci"));
        assert_eq!(args.cluster.context.as_deref(), Some("prod"));
        let Command::Explain(asked) = args.command else {
            panic!()
        };
        assert_eq!(
            (asked.what, asked.name.as_str(), asked.output),
            (What::Job, "1/2", Format::Json)
        );
        let args = Args::parse_from(["kubectl-muster", "-A", "top", "--once"]);
        assert!(args.cluster.all_namespaces);
        assert!(Args::try_parse_from(["kubectl-muster", "-A", "-n", "x", "top"]).is_err());
        assert!(Args::try_parse_from(["kubectl-muster", "explain", "pod", "x"]).is_err());
        let args = Args::parse_from([
            "kubectl-muster",
            "handback",
            "-A",
            "--dry-run",
            "--stop=arc/manager",
        ]);
        let Command::Handback(asked) = args.command else {
            panic!()
        };
        assert_eq!(asked.stop, [("arc".to_owned(), "manager".to_owned())]);
        assert!(asked.dry_run && !asked.force);
        assert!(Args::try_parse_from(["kubectl-muster", "handback", "--stop=manager"]).is_err());
    }
}
