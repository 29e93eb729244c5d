//! Flags, environment and file put together into one parse.
//!
//! The layers below the flags are handed to clap as default values of their options, so its parsers judge them all. What
//! clap cannot know is done around it: Go's single-dash flags are rewritten, switches take `=true` and `=false`, the file's
//! keys are checked against the options of the role, and every error becomes one line.

use super::args::CommonArgs;
use super::command::{decorate, depth, is_layered};
use super::effective::{Effective, Origin};
use super::exit::Exit;
use super::go;
use super::host::{CheckDepth, HostArgs};
use super::layers::Layers;
use super::refusal;
use super::role::{Environment, Role};
use super::spelling;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};
use std::ffi::OsString;

/// The parsed command line.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// For the derived parser of the whole command.
    pub matches: ArgMatches,
    /// Present when the subcommand is a role.
    pub role: Option<RoleLoaded>,
}

/// What was found for a role.
#[derive(Clone, Debug)]
pub struct RoleLoaded {
    /// Name of the subcommand.
    pub name: &'static str,
    /// The options of the service itself.
    pub common: CommonArgs,
    /// The options of this start.
    pub host: HostArgs,
    /// How far to look, where the role is to be checked and not started.
    pub check: Option<CheckDepth>,
    /// Lines to log at start.
    pub warnings: Vec<String>,
    /// Every option with its value and origin.
    pub effective: Vec<Effective>,
}

/// Parses a command line whose roles take their options from flags, environment and file.
///
/// # Errors
/// Help and version (code 0), usage errors (code 2); both carry the text to print.
pub fn load(
    command: Command,
    roles: &'static [Role],
    argv: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<Loaded, Exit> {
    let command = decorate(command, roles);
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let asked = argv.iter().skip(1).find_map(|arg| arg.to_str().filter(|arg| !arg.starts_with('-')));
    let role = roles.iter().find(|role| Some(role.name) == asked);
    let Some(role) = role else {
        let matches = parse(command, argv, &Layers::default())?;
        return Ok(Loaded { matches, role: None });
    };
    let Some(sub) = command.find_subcommand(role.name).cloned() else {
        return Err(Exit::usage("", format_args!("no command {}", role.name)));
    };
    spelling::rewrite_single_dashes(&mut argv, &sub);
    let mut layers = Layers::read(&command, role, roles, &argv, environment)
        .map_err(|problem| Exit::usage(role.name, problem))?;
    layers.leave_unset(&mut argv, &sub);
    let command = command.mut_subcommand(role.name, |sub| layers.apply(sub));
    let matches = parse(command, argv, &layers)?;
    let Some(found) = matches.subcommand_matches(role.name) else {
        return Ok(Loaded { matches, role: None });
    };
    let common = CommonArgs::from_arg_matches(found).map_err(|error| refusal::exit(&error, &layers, &[]))?;
    let host = HostArgs::from_arg_matches(found).map_err(|error| refusal::exit(&error, &layers, &[]))?;
    let asked = found.get_raw("check").and_then(|mut values| values.next()?.to_str());
    let check = asked.and_then(|text| depth(text).ok().flatten());
    let effective = effective(&sub, found, &layers);
    let warnings = go::warnings(role.name, &effective).map_err(|refused| Exit::usage(role.name, refused))?;
    let role = RoleLoaded { name: role.name, common, host, check, warnings, effective };
    Ok(Loaded { matches, role: Some(role) })
}

fn parse(command: Command, argv: Vec<OsString>, layers: &Layers) -> Result<ArgMatches, Exit> {
    let shown = argv.clone();
    command.try_get_matches_from(argv).map_err(|error| refusal::exit(&error, layers, &shown))
}

/// The value of each option and where it came from.
fn effective(sub: &Command, found: &ArgMatches, layers: &Layers) -> Vec<Effective> {
    let shown = sub.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
    let shown = shown.filter(|(_, long)| *long != "config" && is_layered(long));
    let shown = shown.map(|(arg, long)| {
        let id = arg.get_id().as_str();
        let raw = found.get_raw(id).map(|values| {
            values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",")
        });
        let value = match found.try_get_one::<bool>(id) {
            Ok(Some(yes)) => Some(yes.to_string()),
            _ => raw,
        };
        let origin = match (found.value_source(id), layers.found(long)) {
            (Some(ValueSource::CommandLine), _) => Origin::Flag,
            (_, Some(found)) => found.origin.clone(),
            _ => Origin::Default,
        };
        let heading = arg.get_help_heading().unwrap_or("Options").to_owned();
        Effective { option: long.to_owned(), heading, value, origin, hidden: arg.is_hide_set() }
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::super::exit::EXIT_USAGE;
    use super::super::fabric::FabricArgs;
    use super::super::role::Alias;
    use super::super::store::BackendArgs;
    use super::super::values::HostPorts;
    use super::*;
    use clap::{ArgAction, Args, Parser, Subcommand};

    #[derive(Parser, Debug)]
    #[command(name = "oncecast", version = "1.2.3")]
    struct Cli {
        #[command(subcommand)]
        command: Cmd,
    }

    #[derive(Subcommand, Debug)]
    enum Cmd {
        Proxy(Box<Proxy>),
        Listener(Listener),
        /// Not a role.
        Send {
            #[arg(long, default_value_t = 1)]
            count: u32,
        },
    }

    #[derive(Args, Debug, Clone)]
    struct Proxy {
        #[command(flatten)]
        fabric: FabricArgs,
        #[command(flatten)]
        backend: BackendArgs,
        #[arg(long, env = "NUM_WORKERS", default_value_t = 4)]
        workers: u16,
        #[arg(long, action = ArgAction::Set, default_value_t = true)]
        stamp_source: bool,
        #[arg(long)]
        require_ef: bool,
        #[arg(long)]
        peers: Option<HostPorts>,
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
    }

    #[derive(Args, Debug, Clone)]
    struct Listener {
        #[arg(long, default_value = "udp", value_parser = ["udp", "tcp"])]
        egress_proto: String,
    }

    const ROLES: &[Role] = &[
        Role {
            name: "proxy",
            aliases: &[
                Alias { option: "redis-addr", flag: "txid-dedup-redis-addr", env: "TXID_DEDUP_REDIS_ADDR" },
                Alias { option: "no-such-option", flag: "x", env: "X" },
            ],
            defaults: &[("metrics-addr", ":9100")],
        },
        Role { name: "listener", aliases: &[], defaults: &[("metrics-addr", ":9200")] },
    ];

    fn load_with(args: &[&str], env: &[(&str, &str)]) -> Result<(Cmd, RoleLoaded), Exit> {
        let argv = std::iter::once("oncecast").chain(args.iter().copied()).map(OsString::from);
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        let loaded = load(<Cli as clap::CommandFactory>::command(), ROLES, argv, &env)?;
        Ok((Cli::from_arg_matches(&loaded.matches).unwrap().command, loaded.role.unwrap()))
    }

    fn proxy(args: &[&str], env: &[(&str, &str)]) -> (Proxy, RoleLoaded) {
        let args: Vec<_> = std::iter::once("proxy").chain(args.iter().copied()).collect();
        match load_with(&args, env) {
            Ok((Cmd::Proxy(proxy), role)) => (*proxy, role),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(args: &[&str], env: &[(&str, &str)]) -> String {
        let exit = load_with(args, env).unwrap_err();
        assert_eq!(exit.code, EXIT_USAGE);
        assert_eq!(exit.text.lines().count(), 1, "{}", exit.text);
        exit.text.trim_end().to_owned()
    }

    struct File(std::path::PathBuf);
    impl File {
        fn new(name: &str, text: &str) -> File {
            let path = std::env::temp_dir().join(format!("oncecast-{}-{name}.toml", std::process::id()));
            std::fs::write(&path, text).unwrap();
            File(path)
        }
        fn flag(&self) -> String {
            format!("--config={}", self.0.display())
        }
    }
    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_declared_parser_is_sound() {
        decorate(<Cli as clap::CommandFactory>::command(), ROLES).debug_assert();
    }

    #[test]
    fn a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default() {
        let file = File::new(
            "layers",
            "shard-bits = 3\nworkers = 7\nscope = \"org\"\n[proxy]\nworkers = 8\n[listener]\negress_proto = \"tcp\"\n",
        );
        let (config, role) =
            proxy(&[&file.flag(), "--shard-bits=5"], &[("SHARD_BITS", "4"), ("MC_SCOPE", "link")]);
        assert_eq!(config.fabric.shard_bits, 5);
        assert_eq!(config.fabric.scope, crate::config::ScopeArg::Link);
        assert_eq!(config.workers, 8);
        assert_eq!(config.fabric.mc_group_id, 11);
        let origin =
            |option: &str| role.effective.iter().find(|o| o.option == option).unwrap().origin.to_string();
        assert_eq!(origin("shard-bits"), "flag");
        assert_eq!(origin("scope"), "environment MC_SCOPE");
        assert_eq!(origin("workers"), format!("file {}", file.0.display()));
        assert_eq!(origin("mc-group-id"), "default");
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let (config, _) = proxy(&[], &[("NUM_WORKERS", ""), ("SHARD_BITS", "")]);
        assert_eq!((config.workers, config.fabric.shard_bits), (4, 2));
    }

    #[test]
    fn an_empty_text_leaves_an_option_without_default_unset() {
        let (config, _) =
            proxy(&["-bind-source=", "-txid-dedup-redis-addr", "", "-peers="], &[("REDIS_ADDR", "h:1")]);
        assert!(
            config.fabric.bind_source.is_none()
                && config.backend.redis_addr.is_none()
                && config.peers.is_none()
        );
        let file = File::new("empty", "bind-source = \"\"");
        assert!(proxy(&[&file.flag()], &[]).0.fabric.bind_source.is_none());
        assert!(refusal(&["proxy", "--workers="], &[]).contains("--workers"));
    }

    #[test]
    fn a_flag_that_must_not_be_ignored_is_refused() {
        let line = refusal(&["listener", "-mode=receiver"], &[]);
        assert_eq!(line, "oncecast listener: --mode=receiver (flag) is not implemented; want \"collapsed\"");
        assert!(load_with(&["listener", "-mode=collapsed", "-delivery-addrs="], &[]).is_ok());
    }

    #[test]
    fn a_flag_that_will_not_be_built_says_why() {
        let (_, role) = load_with(&["listener", "-ingress-set-local-cap=5"], &[]).unwrap();
        let warnings = role.warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("on purpose") && warnings[0].contains("--egress-dedup-local-cap"),
            "{warnings:?}"
        );
    }

    #[test]
    fn switches_stand_alone_or_take_a_value_in_every_layer() {
        let (config, _) = proxy(&["--require-ef", "--stamp-source=false"], &[("EGRESS_MULTICAST_LOOP", "1")]);
        assert!(config.require_ef && !config.stamp_source && config.fabric.egress_loop);
        let (config, _) = proxy(&["-require-ef=false", "-stamp-source"], &[("REQUIRE_EF", "true")]);
        assert!(!config.require_ef && config.stamp_source);
        let file = File::new("switches", "require-ef = true\nstamp_source = false\n");
        let (config, _) = proxy(&[&file.flag()], &[]);
        assert!(config.require_ef && !config.stamp_source);
    }

    #[test]
    fn go_spelling_and_go_names_are_accepted() {
        let (config, role) =
            proxy(&["-shard-bits", "3", "-debug", "-txid-dedup-redis-addr=h:1", "-iface=a,b"], &[]);
        assert_eq!(config.fabric.shard_bits, 3);
        assert_eq!(config.fabric.iface.0, ["a", "b"]);
        assert_eq!(config.backend.redis_addr.unwrap().0, ["h:1"]);
        assert!(role.common.debug);
        assert_eq!(role.common.metrics_addr.unwrap().to_string(), "[::]:9100");
        let (config, _) = proxy(&[], &[("TXID_DEDUP_REDIS_ADDR", "old:1"), ("REDIS_ADDR", "new:1")]);
        assert_eq!(config.backend.redis_addr.unwrap().0, ["new:1"]);
    }

    #[test]
    fn lists_come_from_every_layer() {
        let file = File::new("lists", "peers = [\"a:1\", \"b:2\"]\ntags = [\"x\", \"y\"]\n");
        let (config, _) = proxy(&[&file.flag()], &[]);
        assert_eq!(config.peers.unwrap().to_string(), "a:1,b:2");
        assert_eq!(config.tags, ["x", "y"]);
        let (config, _) = proxy(&["--tags=p"], &[("TAGS", "q, r")]);
        assert_eq!(config.tags, ["p"]);
        let (config, _) = proxy(&[], &[("TAGS", "q, r")]);
        assert_eq!(config.tags, ["q", "r"]);
    }

    #[test]
    fn flags_without_effect_are_said_aloud_unless_they_ask_for_the_default() {
        let (_, role) = proxy(&["-coalesce=false", "--otlp-interval=30s"], &[("OTLP_ENDPOINT", "")]);
        assert!(role.warnings.is_empty(), "{:?}", role.warnings);
        let (_, role) = proxy(&["-coalesce", "-beef-listen-port", "8728"], &[("OTLP_ENDPOINT", "c:4317")]);
        assert_eq!(role.warnings.len(), 3);
        assert!(
            role.warnings
                .iter()
                .any(|line| line.starts_with("--otlp-endpoint=c:4317 (environment OTLP_ENDPOINT)"))
        );
        let text = super::super::print::toml_text("proxy", &role.effective);
        assert!(text.contains("coalesce = true # flag"), "{text}");
        assert!(!text.contains("otlp-interval"), "{text}");
    }

    #[test]
    fn a_wrong_value_names_option_value_origin_and_what_is_accepted() {
        assert_eq!(
            refusal(&["proxy", "--shard-bits=16"], &[]),
            "oncecast proxy: --shard-bits: \"16\" is not accepted; want 0 to 15"
        );
        assert_eq!(
            refusal(&["proxy"], &[("NUM_WORKERS", "eight")]),
            "oncecast proxy: --workers: \"eight\" (environment NUM_WORKERS) is not accepted; want a whole number"
        );
        assert_eq!(
            refusal(&["proxy", "--scope=here"], &[]),
            "oncecast proxy: --scope: \"here\" is not accepted; want link, site, org, global"
        );
        assert!(refusal(&["proxy", "-drain-timeout=5"], &[]).contains("want a duration with its unit"));
        assert!(refusal(&["proxy", "--require-ef=maybe"], &[]).ends_with("want true or false"));
        assert!(refusal(&["proxy", "--shard-bits"], &[]).contains("a value is missing"));
        assert!(!refusal(&["proxy", "--redis-addr=x://u:hunter2@h"], &[]).contains("hunter2"));
        let two_halves = refusal(&["proxy", "--redis-addr=redis://u:hun,ter2@h:1"], &[]);
        assert!(!two_halves.contains("hun") && !two_halves.contains("ter2"), "{two_halves}");
        for wrong in
            ["redis://bad:port:x", "rediss://h:0", "redis://h/x", "unix://relative", "http://h", "host"]
        {
            let flag = format!("--redis-addr={wrong}");
            let go = format!("-txid-dedup-redis-addr={wrong}");
            for refused in [refusal(&["proxy", &flag], &[]), refusal(&["proxy", &go], &[])] {
                assert!(refused.contains("redis-addr: ") && refused.contains(wrong), "{refused}");
                assert!(refused.contains("want host:port, redis://"), "{refused}");
            }
            let refused = refusal(&["proxy"], &[("REDIS_ADDR", wrong)]);
            assert!(refused.contains("(environment REDIS_ADDR)") && refused.contains(wrong), "{refused}");
        }
        assert!(!refusal(&["proxy", "--scope=a\nb"], &[]).contains('\n'));
    }

    #[test]
    fn unknown_options_and_commands_are_one_line_with_the_nearest_name() {
        assert_eq!(
            refusal(&["proxy", "-shard-bit=3"], &[]),
            "oncecast proxy: unknown option --shard-bit; did you mean --shard-bits?"
        );
        assert_eq!(refusal(&["prxy"], &[]), "oncecast: unknown command \"prxy\"; did you mean proxy?");
        assert!(refusal(&[], &[]).starts_with("oncecast: a command is missing"));
        assert!(refusal(&["proxy", "stray"], &[]).contains("unexpected argument \"stray\""));
    }

    #[test]
    fn the_file_is_checked_strictly() {
        let refused = |name: &str, text: &str| {
            let file = File::new(name, text);
            let line = refusal(&["proxy", &file.flag()], &[]);
            assert!(line.contains(&file.0.display().to_string()), "{line}");
            line
        };
        assert!(
            refused("key", "shard-bitz = 3")
                .ends_with("unknown key \"shard-bitz\"; did you mean \"shard-bits\"?")
        );
        assert!(
            refused("table", "[prxy]\nx = 1").ends_with("unknown table [prxy]; want [proxy], [listener]")
        );
        assert!(refused("other", "egress-proto = \"udp\"").ends_with("it belongs under [listener]"));
        assert!(
            refused("inner", "[listener]\negress-prot = \"udp\"").contains("did you mean \"egress-proto\"")
        );
        assert!(
            refused("twice", "shard-bits = 1\nshard_bits = 2").contains("are the same option --shard-bits")
        );
        assert!(refused("syntax", "shard-bits = 1\nworkers = = 2").contains("line 2: "));
        assert!(refused("type", "workers = 2020-01-01").contains("key \"workers\": want a string"));
        assert!(refused("check", "check = true").contains("unknown key"));
        assert!(refused("value", "workers = \"many\"").contains("\"many\" (file "));
        assert!(refusal(&["proxy", "--config=/no/such/file"], &[]).contains("No such file"));
    }

    #[test]
    fn the_file_may_be_named_by_the_environment() {
        let file = File::new("env", "workers = 9");
        let (config, _) = proxy(&[], &[("ONCECAST_CONFIG", file.0.to_str().unwrap())]);
        assert_eq!(config.workers, 9);
    }

    #[test]
    fn what_is_printed_loads_to_the_same_configuration() {
        let args = ["--iface=a,b", "--tags=x,y", "--require-ef", "--drain-timeout=1m30s", "--peers=[::1]:1"];
        let (_, first) = proxy(&args, &[]);
        let file = File::new("round", &super::super::print::toml_text("proxy", &first.effective));
        let (_, second) = proxy(&[&file.flag()], &[]);
        let values = |role: &RoleLoaded| {
            role.effective.iter().map(|o| (o.option.clone(), o.value.clone())).collect::<Vec<_>>()
        };
        assert_eq!(values(&first), values(&second));
    }

    #[test]
    fn help_and_version_are_no_errors_and_name_the_variables() {
        let exit = load_with(&["proxy", "--help"], &[("NUM_WORKERS", "eight")]);
        let exit = exit.unwrap_err();
        assert_eq!(exit.code, 0);
        assert!(exit.text.contains("[env: NUM_WORKERS]"), "{}", exit.text);
        assert!(exit.text.contains("--require-ef[=<true|false>]"), "{}", exit.text);
        assert!(exit.text.contains("Fabric:"), "{}", exit.text);
        assert_eq!(
            load_with(&["--version"], &[]).unwrap_err(),
            Exit { code: 0, text: "oncecast 1.2.3\n".to_owned() }
        );
    }

    #[test]
    fn commands_that_are_no_roles_are_parsed_as_they_are() {
        let argv = ["oncecast", "send", "--count", "3"].map(OsString::from);
        let env = [("COUNT".to_owned(), OsString::from("9"))].into_iter().collect();
        let loaded = load(<Cli as clap::CommandFactory>::command(), ROLES, argv, &env).unwrap();
        assert!(loaded.role.is_none());
        assert!(matches!(Cli::from_arg_matches(&loaded.matches).unwrap().command, Cmd::Send { count: 3 }));
    }
}
