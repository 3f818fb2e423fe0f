//! Resizes whose sizes data decides, against those that are known; rules of sizes; operands that do not fit.

use crate::ops::test_model::{TestModel, assert_close, noise};

fn resize(mode: &str, transform: &str) -> TestModel {
    TestModel::new("Resize", 13).text("mode", mode).text("coordinate_transformation_mode", transform)
}

#[test]
fn unknown_sizes_resize_alike() {
    let x = noise(30);
    let transforms = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"];
    for (mode, antialias, exclude) in [
        ("nearest", 0, 0),
        ("linear", 0, 0),
        ("linear", 1, 0),
        ("linear", 0, 1),
        ("cubic", 0, 0),
        ("cubic", 1, 0),
        ("cubic", 0, 1),
    ] {
        for transform in transforms {
            for scales in [[1.0, 2.0], [1.0, 1.5], [0.4, 3.0], [1.0, 0.7]] {
                // Whole output sizes, because corners of fractional ones are aligned to other places.
                let whole = scales.iter().zip([5.0, 6.0f32]).all(|(s, n)| (s * n).fract() == 0.0);
                if transform == "align_corners" && !whole {
                    continue;
                }
                let resize = || {
                    let style = |m: TestModel| m.int("antialias", antialias).int("exclude_outside", exclude);
                    style(TestModel::new("Resize", 18).text("mode", mode))
                        .text("coordinate_transformation_mode", transform)
                };
                let finish = |model: TestModel| model.absent().floats(&[2], &scales).run();
                let known = finish(resize().input(&[5, 6], &x));
                let by_data = resize().input(&[5, 6], &x).absent().input(&[2], &scales).run();
                assert_close(&by_data, &known);
                let unknown = finish(resize().dynamic(&[5, 6], &x));
                if known.0 == unknown.0 {
                    assert_close(&unknown, &known);
                } else {
                    // 0.7 * 6 rounds differently in `f32`.
                    assert_eq!(scales[1], 0.7);
                }
            }
        }
    }
}

#[test]
fn sizes_keep_the_aspect_ratio() {
    let sized = |policy| {
        let model = TestModel::new("Resize", 19).text("keep_aspect_ratio_policy", policy).ints("axes", &[0, 1]);
        model.input(&[2, 4], &noise(8)).absent().absent().integers(&[7, 8]).run().0
    };
    assert_eq!([sized("stretch"), sized("not_larger"), sized("not_smaller")], [[7, 8], [4, 8], [7, 14]]);
}

#[test]
fn doubling_an_unknown_size_is_known_to_double() {
    let model = resize("nearest", "asymmetric").text("nearest_mode", "floor");
    let (shape, y) = model.dynamic(&[1, 3], &[1.0, 2.0, 3.0]).absent().floats(&[2], &[2.0, 2.0]).run();
    assert_eq!(shape, [2, 6]);
    assert_eq!(y, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0].repeat(2));
}

#[test]
fn wrong_operands_are_named() {
    let model = || resize("linear", "half_pixel").input(&[4], &noise(4));
    assert!(model().error().contains("neither scales nor sizes"));
    assert!(model().absent().floats(&[2], &[1.0, 2.0]).error().contains("for 1 axes"));
}
