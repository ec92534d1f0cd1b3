//! The command line: kubectl's flags for where, a subcommand for what.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Why a pool, a runner or a job waits; all pools at a glance. Reads, and never writes.
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
    }
}
