"""Operations with a plain-torch reference and, where it is worth it, a kernel; one folder an op."""
