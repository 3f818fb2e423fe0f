//! MelWeightMatrix: from a spectrum to bins on the mel scale, which is linear in what is heard.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::build::ExprBuilder;

use super::{MAX_MATRIX, float_constant};
use crate::import::{NodeContext, OpResult};

/// Triangles on the mel scale, `[dft_length / 2 + 1, num_mel_bins]`.
pub(super) fn mel_weight_matrix(cx: &mut NodeContext<'_>) -> OpResult {
    let dtype = cx.dtype("output_datatype")?.unwrap_or(DType::F32);
    let number = |cx: &NodeContext<'_>, n: usize| cx.b.known_i64s(cx.optional(n)?)?.first().copied();
    let edge = |cx: &NodeContext<'_>, n: usize| {
        let known = cx.b.graph.known[cx.optional(n)?].as_ref()?.all_floats()?;
        known.first().copied()
    };
    let sizes = (number(cx, 0), number(cx, 1), number(cx, 2));
    let ((Some(bins), Some(length), Some(rate)), (Some(low), Some(high))) = (sizes, (edge(cx, 3), edge(cx, 4))) else {
        return mel_weights_of_data(cx, dtype);
    };
    let spectrum = length / 2 + 1;
    if bins < 1 || length < 1 || rate < 1 || bins.saturating_mul(spectrum) > MAX_MATRIX as i64 {
        return cx.invalid(format!("{bins} mel bins of a transform of length {length} at {rate} Hz"));
    }
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (bins + 2) as f64;
    let point = |i: i64| {
        let hertz = 700.0 * (10f64.powf((i as f64 * step + mel(low)) / 2595.0) - 1.0);
        ((length + 1) as f64 * hertz / rate as f64).floor() as i64
    };
    let mut matrix = vec![0.0; (bins * spectrum) as usize];
    let mut set = |row: i64, column: i64, value: f64| {
        if (0..spectrum).contains(&row) {
            matrix[(row * bins + column) as usize] = value;
        }
    };
    for i in 0..bins {
        let (left, centre, right) = (point(i), point(i + 1), point(i + 2));
        if left == centre {
            set(centre, i, 1.0);
        }
        let share = |part: (i64, i64), all: (i64, i64)| (part.1 as f64 - part.0 as f64) / (all.1 as f64 - all.0 as f64);
        for j in left.max(0)..=centre.min(spectrum) {
            if left != centre {
                set(j, i, share((left, j), (left, centre)));
            }
        }
        for j in centre.max(0)..right.min(spectrum) {
            set(j, i, share((j, right), (centre, right)));
        }
    }
    Ok(vec![float_constant(&mut cx.b, dtype, &[spectrum, bins], &matrix)?])
}

/// The same with operands that a run knows.
fn mel_weights_of_data(cx: &mut NodeContext<'_>, dtype: DType) -> OpResult {
    let most = Dim::from(DEFAULT_HIGH);
    let mut operands = Vec::new();
    for n in 0..5 {
        let operand = cx.input(n)?;
        let operand = cx.b.reshape(operand, &[])?;
        operands.push(cx.b.cast(operand, DType::F64)?);
    }
    let bins = cx.size_up_to(0, &most)?;
    let length = cx.size_up_to(1, &most)?;
    let spectrum = (&length.floor_div(&Dim::from(2))? + &Dim::ONE)?;
    let per_decade = std::f64::consts::LN_10;
    Ok(vec![cx.b.map_to(&[spectrum, bins], &operands, |e| {
        let (bins, length, rate, low, high) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3), e.arg(4));
        let mut number = |x: f64| e.number(DType::F64, x);
        let (scale, corner, one, two) = (number(2595.0 / per_decade)?, number(700.0)?, number(1.0)?, number(2.0)?);
        let mel = |e: &mut ExprBuilder, hertz: ExprIndex| {
            let ratio = e.div(hertz, corner);
            let inner = e.add(one, ratio);
            let log = e.log(inner);
            e.mul(scale, log)
        };
        let (low, high) = (mel(e, low), mel(e, high));
        let (range, intervals) = (e.sub(high, low), e.add(bins, two));
        let step = e.div(range, intervals);
        let samples = e.add(length, one);
        let column = e.index(1);
        let column = e.cast(DType::F64, column);
        let point = |e: &mut ExprBuilder, shift: Option<ExprIndex>| {
            let at = shift.map_or(column, |shift| e.add(column, shift));
            let rise = e.mul(at, step);
            let value = e.add(rise, low);
            let exponent = e.div(value, scale);
            let power = e.exp(exponent);
            let above = e.sub(power, one);
            let hertz = e.mul(corner, above);
            let scaled = e.mul(samples, hertz);
            let place = e.div(scaled, rate);
            e.floor(place)
        };
        let (left, centre, right) = (point(e, None), point(e, Some(one)), point(e, Some(two)));
        let row = e.index(0);
        let row = e.cast(DType::F64, row);
        let zero = e.number(DType::F64, 0.0)?;
        let (width, come) = (e.sub(centre, left), e.sub(row, left));
        let rising = e.div(come, width);
        let (flat, same) = (e.eq(left, centre), e.eq(row, centre));
        let peak = e.select(same, one, zero);
        let (after, before) = (e.ge(row, left), e.le(row, centre));
        let inside = e.and(after, before);
        let slope = e.select(inside, rising, zero);
        let first = e.select(flat, peak, slope);
        let (width, left_over) = (e.sub(right, centre), e.sub(right, row));
        let falling = e.div(left_over, width);
        let (after, before) = (e.ge(row, centre), e.lt(row, right));
        let inside = e.and(after, before);
        let weight = e.select(inside, falling, first);
        Ok(e.cast(dtype, weight))
    })?])
}
