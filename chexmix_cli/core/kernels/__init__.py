"""Operations with a plain-torch reference and, where it earns its place, a kernel; one folder an op."""
