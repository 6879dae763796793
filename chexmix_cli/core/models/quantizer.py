"""The VQGAN's codebook: latents to codes and back."""

from __future__ import annotations

from torch import Tensor, nn

from chexmix_cli.core.kernels.nearest_code.op import nearest_code


class Quantizer(nn.Module):
    """Codebook of ``num_codes`` vectors. Shape letters: B images, E code size, Y X grid rows and columns."""

    def __init__(self, num_codes: int, code_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, code_size)

    def encode(self, latent_BEYX: Tensor) -> Tensor:
        """Return the nearest code of each latent, (B, Y, X) int64; ties go to the lowest index."""
        latent_BYXE = latent_BEYX.permute(0, 2, 3, 1)
        codes_M = nearest_code(latent_BYXE.reshape(-1, latent_BYXE.shape[-1]), self.embedding.weight)
        return codes_M.view(latent_BYXE.shape[:3])

    def decode(self, codes_BYX: Tensor) -> Tensor:
        """Return the codebook vectors of codes, (B, E, Y, X)."""
        latent_BYXE: Tensor = self.embedding(codes_BYX)
        return latent_BYXE.permute(0, 3, 1, 2)
