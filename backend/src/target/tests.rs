//! Names of targets, what they bring, and refusals.

use super::*;

#[test]
fn canonical_names_parse_to_the_same_target() {
    let names = [
        "native",
        "x86_64",
        "x86_64-avx2",
        "x86_64-avx512+avx512bf16",
        "aarch64",
        "aarch64-dotprod+i8mm",
        "x86_64+avx2",
        "x86_64-pc-windows-gnu+avx2+fma",
        "aarch64-apple-darwin",
        "aarch64-unknown-none",
        "x86_64-unknown-none",
        "x86_64-unknown-linux-musl",
        "riscv64",
        "riscv64-v",
        "riscv64-unknown-linux-gnu+v",
        "riscv64gc-unknown-none-elf",
        "nvptx64-sm_80",
        "nvptx64-sm_90a",
    ];
    for name in names {
        let target = Target::parse(name).unwrap();
        assert_eq!(Target::parse(target.name()).unwrap(), target, "{name} -> {target}");
    }
    assert_eq!(Target::parse("x86_64+avx2+fma+f16c+bmi").unwrap().name(), "x86_64-avx2");
    assert_eq!(Target::parse("x86_64-unknown-linux-gnu").unwrap().name(), "x86_64");
}

#[test]
fn features_bring_what_they_imply_and_the_fitting_record() {
    let target = Target::parse("x86_64+avx512vnni").unwrap();
    assert_eq!(target, Target::parse("x86_64-avx512").unwrap());
    assert_eq!((target.machine().vector_bits, target.machine().vector_registers), (512, 32));
    assert!(target.cranelift_settings().any(|setting| setting == "has_fma"));
    let baseline = Target::parse("x86_64").unwrap();
    assert!(!baseline.machine().has_fma);
    assert!(baseline.cranelift_settings().all(|setting| !setting.contains("avx")));
    let MachineModel { dots, moves_narrow, .. } = *baseline.machine();
    assert_eq!(*baseline.machine(), MachineModel { dots, moves_narrow, ..MachineModel::BASELINE });
    assert!(dots.mixed && dots.temporaries > 0);
}

#[test]
fn variants_are_the_more_able_processors_and_what_tells_them() {
    let names = |name| Target::parse(name).unwrap().variants().iter().map(|t| t.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names("x86_64"), ["x86_64-avx2", "x86_64-avx512"]);
    assert_eq!(names("x86_64-avx2"), ["x86_64-avx512"]);
    assert!(names("x86_64-avx512").is_empty() && names("aarch64").is_empty());
    let base = Target::parse("x86_64-pc-windows-gnu").unwrap();
    let variants = base.variants();
    assert!(variants.iter().all(|t| t.triple() == base.triple() && Target::parse(t.name()).unwrap() == *t));
    assert_eq!(variants.iter().map(Target::kind).collect::<Vec<_>>(), ["avx2", "avx512"]);
    assert_eq!(variants[0].processor_bits(&base), [0x3800_1000, 0x128, 0, 0x20, 0x6]);
    assert_eq!(variants[1].processor_bits(&base), [0x3800_1000, 0xd003_0128, 0x800, 0x20, 0xe6]);
    assert_eq!(variants[1].processor_bits(&variants[0]), [0, 0xd003_0000, 0x800, 0, 0xe6]);
}

#[test]
fn refusals_say_what_to_do() {
    let message = |name| Target::parse(name).unwrap_err().to_string();
    assert!(message("nvptx64-sm_70").contains("GPU targets: nvptx64-sm_80, nvptx64-sm_90a"));
    assert!(message("nvptx64-sm_80+tensor").contains("unknown feature"));
    assert!(message("armv7-unknown-linux-gnueabihf").contains("the target is aarch64"));
    assert!(message("i686-pc-windows-gnu").contains("32-bit"));
    assert!(message("x86-64-avx2").contains("did you mean `x86_64-avx2`?"));
    assert!(message("arm64").contains("did you mean `aarch64`?"));
    assert!(message("x86_64+dotprod").contains("known: v2, avx, avx2"));
    assert!(message("").contains("unknown target"));
}

#[test]
fn the_native_record_runs_here() {
    assert!(Target::native().unwrap().runs_on_host());
}
