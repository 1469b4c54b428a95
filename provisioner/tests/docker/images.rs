//! R-50: images from a memcached that the operator has built, and which image new containers get.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::harness::{Installation, count, docker, inspect, output};

/// An installation that notes which image was chosen.
pub(crate) async fn installation() -> Installation {
    let mut installation = Installation::new().await;
    installation.config.chosen_image = Some(installation.dir().join("image.id"));
    installation.config.reconcile_seconds = 1;
    installation
}

/// The memcached of the distribution's package, as if the operator had built it.
pub(crate) async fn operators_binary(installation: &Installation) -> PathBuf {
    let tag = provisioner::build_image(&installation.config, &installation.id).await.unwrap();
    let name = format!("copy-of-{}", installation.id);
    docker(&["create", "--name", &name, &tag]);
    let binary = installation.dir().join("memcached-built");
    docker(&["cp", &format!("{name}:/usr/bin/memcached"), binary.to_str().unwrap()]);
    docker(&["rm", &name]);
    binary
}

/// A program that says it is memcached, and never serves.
pub(crate) fn broken_memcached(dir: &Path) -> PathBuf {
    let help = r#"puts("memcached 1.6.99\n-Y, --auth-file=<file>")"#;
    let source = format!(
        "#include <stdio.h>\n#include <string.h>\nint main(int n, char **a) {{ return n > 1 && !strcmp(a[1], \"-h\") ? \
         {help} < 0 : 1; }}"
    );
    compile(dir, "broken", &source, &[])
}

fn compile(dir: &Path, name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let (file, program) = (dir.join(format!("{name}.c")), dir.join(name));
    std::fs::write(&file, source).unwrap();
    let own = [file.to_str().unwrap(), "-o", program.to_str().unwrap()];
    output("cc", &[&own, arguments].concat());
    program
}

// R-50, R-37.
#[tokio::test]
async fn new_containers_get_the_image_that_was_built_last() {
    let mut installation = installation().await;
    let binary = operators_binary(&installation).await;
    let (config, id) = (installation.config.clone(), installation.id.clone());
    let package = provisioner::ensure_image(&config, &id).await.unwrap();
    let built = provisioner::build_image_from(&config, &id, &binary).await.unwrap();
    assert!(
        built.starts_with(&format!("memgate-{id}-memcached:1.6.")) && built.contains("-binary-"),
        "{built}"
    );
    assert_eq!(provisioner::ensure_image(&config, &id).await.unwrap(), built);
    assert_eq!([count("container", &id), count("image", &id)], [0, 2], "nothing is left of the trial");
    let again = provisioner::build_image_from(&config, &id, &binary).await.unwrap();
    assert_eq!((&again, count("image", &id)), (&built, 2), "the same binary gives the same image");

    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, _) = installation.running_instance().await;
    let image = |name: &str| inspect("container", name)["Image"].as_str().unwrap().to_owned();
    let chosen = provisioner::image_status(&config, &id).await.unwrap().unwrap();
    assert_eq!(image(&installation.container(&instance)), chosen.id);
    assert_eq!((chosen.image.as_str(), chosen.source, chosen.containers), (built.as_str(), "binary", 1));
    assert!(chosen.memcached.as_ref().unwrap().starts_with("1.6.") && !chosen.is_older_than(1), "{chosen:?}");

    installation.stop_provisioner();
    // Back to the package's, although the other one is newer.
    assert_eq!(provisioner::build_image(&config, &id).await.unwrap(), package);
    assert_eq!(provisioner::ensure_image(&config, &id).await.unwrap(), package);
    let chosen = provisioner::image_status(&config, &id).await.unwrap().unwrap();
    assert_eq!((chosen.source, chosen.containers, chosen.outdated), ("package", 0, 1));

    // A name or an id in the file makes no other image ours.
    let foreign = format!("memgate-{id}-memcached:9");
    docker(&["tag", &package, &foreign]);
    std::fs::write(config.chosen_image.as_ref().unwrap(), &foreign).unwrap();
    assert_eq!(provisioner::ensure_image(&config, &id).await.unwrap(), package);
    docker(&["rmi", &foreign]);
}

/// Tries to build an image, and returns the error, which is one line.
async fn refused(installation: &Installation, binary: &Path) -> String {
    let built = provisioner::build_image_from(&installation.config, &installation.id, binary).await;
    let error = built.unwrap_err().to_string();
    assert!(error.starts_with("can't build an image from /") && !error.contains('\n'), "{error}");
    error
}

// R-50.
#[tokio::test]
async fn what_can_not_be_used_as_memcached_is_refused_and_never_run_here() {
    let installation = installation().await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = refused(&installation, &dir.join("missing")).await;
    assert!(error.contains("No such file"), "{error}");
    assert!(refused(&installation, dir).await.contains("it is not a file"));
    let script = dir.join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    assert!(refused(&installation, &script).await.contains("it isn't an ELF program"));

    let ran = dir.join("ran");
    let touch = format!("#include <fcntl.h>\nint main() {{ return open({ran:?}, O_CREAT, 0666) < 0; }}");
    let other = compile(dir, "other", &touch, &[]);
    let error = refused(&installation, &other).await;
    assert!(error.contains("it doesn't run in the image (exit code 1, \"nothing\")"), "{error}");
    let mut bytes = std::fs::read(&other).unwrap();
    bytes[18] = if bytes[18] == 62 { 183 } else { 62 };
    std::fs::write(dir.join("arm"), bytes).unwrap();
    let error = refused(&installation, &dir.join("arm")).await;
    assert!(error.contains("it was built for ") && error.contains("build it on this machine"), "{error}");
    let endless = compile(dir, "endless", "int main() { for (;;); }", &["-static"]);
    assert!(refused(&installation, &endless).await.contains("doesn't end"));
    let old = "#include <stdio.h>\nint main() { puts(\"memcached 1.5.6\"); }";
    let error = refused(&installation, &compile(dir, "old", old, &[])).await;
    assert!(error.contains("memcached 1.5.6 is too old): build 1.6.18 or newer"), "{error}");

    // A library that is linked and nowhere; its code would run when the program is loaded.
    let library = format!(
        "#include <fcntl.h>\nint gone;\n__attribute__((constructor)) void run() {{ open({ran:?}, O_CREAT, 0666); }}"
    );
    compile(dir, "libgone.so", &library, &["-shared", "-fPIC"]);
    let linking = "extern int gone; int main() { return gone; }";
    let folder = format!("-L{}", dir.display());
    let program = compile(dir, "linking", linking, &[&folder, "-lgone"]);
    let error = refused(&installation, &program).await;
    assert!(error.contains("it links libgone.so, which neither this host nor"), "{error}");
    let rpath = format!("-Wl,-rpath,{}", dir.display());
    let program = compile(dir, "with-path", linking, &[&folder, "-lgone", &rpath]);
    let elsewhere = "it tells the loader to look for libraries elsewhere): link it without -rpath";
    assert!(refused(&installation, &program).await.contains(elsewhere));
    // What the system's loader runs when it only looks at a program, as `ldd` has it do.
    let library = dir.join("libgone.so").display().to_string();
    for (name, option) in [("audited", "--audit"), ("audited-by-library", "--depaudit")] {
        let program = compile(dir, name, "int main() { return 0; }", &[&format!("-Wl,{option},{library}")]);
        assert!(refused(&installation, &program).await.contains(elsewhere), "{name}");
    }
    assert!(!ran.exists(), "nothing of a program is run on this host");
    assert_eq!([count("container", &installation.id), count("image", &installation.id)], [0, 0]);

    let mut configured = installation.config.clone();
    configured.image = Some("memcached:1.6".into());
    let built = provisioner::build_image_from(&configured, &installation.id, &program).await;
    assert!(built.unwrap_err().to_string().contains("provisioner.image is invalid: remove it"));
}
