//! Kubernetes quantities, compared by value and not by notation: `1Gi` is `1024Mi`, `4` is `4000m`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths in one unit.
const MILLI: i128 = 1_000;

/// The value in thousandths, rounded up; `None` for text that is no quantity, or one beyond all storage.
pub fn milli(quantity: &Quantity) -> Option<i128> {
    parse(quantity.0.trim())
}

fn parse(text: &str) -> Option<i128> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = (text.get(..end)?, text.get(end..)?);
    let (factor, divisor) = scale(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = digits.checked_mul(factor)?.checked_mul(MILLI)?;
    let divisor = shift.checked_mul(divisor)?;
    let value = product / divisor + i128::from(product % divisor != 0);
    Some(sign * value)
}

/// A suffix as a fraction.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1_i128.checked_shl(10 * power)?, 1));
    let decimal = |power: u32| Some((10_i128.checked_pow(power)?, 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let power: i32 = exponent.parse().ok()?;
            let magnitude = 10_i128.checked_pow(power.unsigned_abs())?;
            Some(if power < 0 { (1, magnitude) } else { (magnitude, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations_of_one_value_are_equal() {
        for (text, expected) in [
            ("0", Some(0)),
            ("4", Some(4_000)),
            ("4000m", Some(4_000)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1Gi", Some(1_073_741_824_000)),
            ("1024Mi", Some(1_073_741_824_000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("1E3", Some(1_000_000)),
            ("5e-1", Some(500)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("100n", Some(1)),
            ("-2", Some(-2_000)),
            ("", None),
            ("Gi", None),
            ("1Xi", None),
            ("1.2.3", None),
            ("99999999999999999999999999999999999999Ei", None),
        ] {
            assert_eq!(milli(&Quantity(text.to_owned())), expected, "{text}");
        }
    }
}
