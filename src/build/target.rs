//! What cargo says about the target, as a name that `--target` takes.

/// Rust's names of the features that onnxc knows, with onnxc's; where several of Rust's make one, all must be there.
const FEATURES: [(&[&str], &str); 13] = [
    (&["avx"], "avx"),
    (&["avx2"], "avx2"),
    (&["fma"], "fma"),
    (&["f16c"], "f16c"),
    (&["bmi1", "bmi2", "lzcnt"], "bmi"),
    (&["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"], "avx512"),
    (&["avx512vnni"], "avx512vnni"),
    (&["avx512bf16"], "avx512bf16"),
    (&["dotprod"], "dotprod"),
    (&["i8mm"], "i8mm"),
    (&["fp16"], "fp16"),
    (&["bf16"], "bf16"),
    (&["lse"], "lse"),
];

/// The target of `TARGET` and `CARGO_CFG_TARGET_FEATURE`. An architecture's baseline is always there.
pub(super) fn target_of(triple: &str, features: &str) -> String {
    let given: Vec<&str> = features.split(',').collect();
    let mut name = triple.to_owned();
    // AVX-512's parts are of use together only.
    let avx512 = FEATURES[5].0.iter().all(|feature| given.contains(feature));
    for (needed, feature) in FEATURES {
        let part = feature.starts_with("avx512") && !avx512;
        if !part && needed.iter().all(|feature| given.contains(feature)) {
            name.push('+');
            name.push_str(feature);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::target_of;
    use onnxc_backend::target::Target;

    #[track_caller]
    fn resolves(triple: &str, features: &str, expected: &str) {
        assert_eq!(Target::parse(&target_of(triple, features)).unwrap().name(), expected);
    }

    #[test]
    fn cargo_s_features_choose_the_target() {
        resolves("x86_64-unknown-linux-gnu", "fxsr,sse,sse2,x87", "x86_64");
        resolves("x86_64-unknown-linux-gnu", "avx,avx2,bmi1,bmi2,f16c,fma,lzcnt,sse4.2", "x86_64-avx2");
        let avx512 = "avx,avx2,avx512bw,avx512cd,avx512dq,avx512f,avx512vl,avx512vnni,bmi1,bmi2,f16c,fma,lzcnt";
        resolves("x86_64-unknown-linux-gnu", avx512, "x86_64-avx512");
        resolves("x86_64-unknown-linux-gnu", "avx512f,avx512vnni,avx", "x86_64+avx");
        resolves("aarch64-unknown-linux-gnu", "neon", "aarch64");
        resolves("aarch64-unknown-linux-gnu", "dotprod,fp16,lse,neon,rcpc", "aarch64-dotprod");
        resolves("x86_64-unknown-linux-musl", "avx2", "x86_64-unknown-linux-musl+avx2");
    }
}
