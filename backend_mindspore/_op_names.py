"""MindSpore primitives of which the name says all."""

from __future__ import annotations

__all__ = ["POINTWISE", "UNIFORM"]

# filled with one number, or with random ones: every channel is like every other
UNIFORM = frozenset(["Zeros", "Ones", "Fill", "FillV2", "FillScalar", "Eye", "StandardNormal", "UniformReal"])
POINTWISE = frozenset([
    "Abs", "Acos", "Acosh", "Add", "AddExt", "AddScalar", "AddcdivExt", "AddcmulExt", "Adds", "And", "Asin",
    "Asinh", "Atan", "Atan2", "Atanh", "BitwiseAnd", "Ceil", "ClampScalar", "ClampTensor", "Clamp", "Cos", "Cosh",
    "Div", "DivMod", "DivMods", "DivNoNan", "Divs", "Dropout", "DropoutDoMaskExt", "DropoutExt",
    "DropoutGenMaskExt", "EluExt", "Elu", "Equal", "Erf", "Erfc", "Exp", "Expm1", "FastGeLU", "FastGelu", "Floor",
    "FloorDiv", "FloorMod", "GLU", "GeLU", "GeluExt", "GreaterEqual", "Greater", "GreaterEqualScalar",
    "GreaterScalar", "HardTanh", "Hardtanh", "HSigmoid", "HSwish", "HShrink", "InplaceAddExt", "InplaceAddsExt",
    "InplaceDiv", "InplaceDivs", "InplaceMul", "InplaceMuls", "InplaceReLU", "InplaceSubExt", "InplaceSubScalar",
    "InplaceHardtanh", "InplaceRelu", "InplaceSiLU", "InplaceSigmoid", "IsFinite", "IsInf", "IsNan", "LeakyReLU",
    "LeakyReLUExt", "Less", "LessEqual", "LessEqualScalar", "LessScalar", "Log", "Log1p", "LogSigmoid",
    "LogicalAnd", "LogicalNot", "LogicalOr", "LogicalXor", "Logit", "MaskedFill", "MaskedFillScalar", "Maximum",
    "Minimum", "Mish", "Mod", "Mul", "MulNoNan", "Muls", "Neg", "NotEqual", "NotEqualScalar", "Pow",
    "PowScalarTensor", "PowTensorScalar", "RealDiv", "Reciprocal", "ReLU", "ReLU6", "ReLUV2", "Round", "Rsqrt",
    "RsubExt", "SeLU", "SeLUExt", "Select", "SelectExt", "SelectV2", "Sigmoid", "SiLU", "Sign", "Silu", "Sin",
    "Sinh", "SmoothL1Loss", "Softplus", "SoftplusExt", "Softsign", "Sqrt", "Square", "SquaredDifference", "Sub",
    "SubExt", "SubScalar", "Subs", "Swish", "Tan", "Tanh", "TensorAdd", "Threshold", "TruncateDiv", "Where",
    "Xlogy", "_MaskedFill",
])  # fmt: skip
