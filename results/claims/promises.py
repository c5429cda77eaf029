"""Every promise and the tests that decide it, written before the runs; no threshold is changed afterwards.

Unless a test says otherwise, it compares an arm with `shared`, the same VAE with one sigma for all pixels. Encoder and
mean of `faithful` are those of `shared` bit for bit. So a promise about its *mean picture* is refuted by construction
if it says "better", and confirmed if it says "no worse"; only what it draws can differ.
"""

from results.claims.trials import HETEROSCEDASTIC, Convergence, KnobTurns, MetricRatio, PerImage, Stability, Trial
from results.claims.verdict import Promise

LESS, MORE = Promise(high=0.0), Promise(low=0.0)

PROMISES: dict[str, tuple[Trial, ...]] = {
    "stable training": (
        Stability("stable on clean data", "clean"),
        Stability("stable with 5 % noise images", "outliers"),
    ),
    "faster convergence": (
        Convergence("PSNR as early as shared", "psnr", rising=True),
        Convergence("PSNR as early as the ordinary VAE", "psnr", rising=True, versus="fixed"),
        Convergence("bound as early as shared", "elbo_bpd", rising=False),
    ),
    "sharper edges": (
        PerImage("sharpness", "mean_gradient", "gradient energy of the mean over the original's", MORE),
        PerImage("LPIPS alex", "lpips_alex", "LPIPS (AlexNet) of the mean", LESS),
        PerImage("LPIPS vgg", "lpips_vgg", "LPIPS (VGG16) of the mean", LESS),
        PerImage("edge PSNR", "edge_psnr", "PSNR within 2 pixels of strong edges, dB", MORE),
    ),
    "truer colour": (
        PerImage("colour difference", "delta_e2000", "CIEDE2000 of the mean", LESS),
        PerImage("colour difference, ordinary VAE", "delta_e2000", "CIEDE2000 of the mean", LESS, versus="fixed"),
        PerImage("block colour", "block_colour", "error of the mean colour of 8x8 blocks, levels", LESS),
    ),
    "kept texture": (
        PerImage("spectrum of the mean", "mean_spectrum",
                 "error of the power of fine texture in high-sigma tiles, dB, of the mean", LESS),
        PerImage("spectrum of a draw", "draw_spectrum", "the same of a drawn reconstruction", LESS),
        PerImage("sharpness of a draw", "draw_gradient", "gradient energy of a draw over the original's",
                 Promise(0.85, 1.15), versus=None, arms=("shared", *HETEROSCEDASTIC)),
    ),
    "fewer artefacts": (
        PerImage("grid in the mean", "mean_grid", "|blockiness at 8 pixels over the original's - 1| of the mean", LESS),
        PerImage("grid in a draw", "draw_grid", "the same of a draw", LESS),
        PerImage("ringing in the mean", "mean_ringing", "ripples beside edges of the mean, levels", LESS),
        PerImage("ringing in a draw", "draw_ringing", "the same of a draw", LESS),
        PerImage("specks in the mean", "mean_specks", "colour specks in 1000 pixels of the mean", LESS),
        PerImage("specks in a draw", "draw_specks", "the same of a draw", LESS),
    ),
    "sigma follows complexity": (
        PerImage("rank with JPEG bits", "sigma_bits", "rank correlation of sigma and JPEG bits over 8x8 blocks",
                 Promise(low=0.5), versus=None),
        PerImage("rank with JPEG bits, beyond Sobel", "sigma_bits - sobel_bits", "the same less that of Sobel's sigma",
                 MORE, versus=None),
        PerImage("rank with entropy", "sigma_entropy", "rank correlation of sigma and grey-level entropy",
                 Promise(low=0.5), versus=None),
        PerImage("rank with entropy, beyond Sobel", "sigma_entropy - sobel_entropy",
                 "the same less that of Sobel's sigma", MORE, versus=None),
        PerImage("plain background", "sigma_ratio", "sigma in the plainest tenth of blocks over the most complex",
                 Promise(high=0.5), versus=None),
        PerImage("plain background, closer than Sobel", "sigma_miss - sobel_miss",
                 "|ln(that ratio / the real error's ratio)| less that of Sobel's sigma", LESS, versus=None),
    ),
    "latent uncertainty means complexity": (
        PerImage("encoder sigma grows", "encoder_bits", "rank correlation of the encoder's sigma and JPEG bits", MORE,
                 versus=None, arms=("shared", *HETEROSCEDASTIC)),
        PerImage("encoder sigma shrinks (theory)", "encoder_bits", "the same, as linear theory has it", LESS,
                 versus=None, arms=("shared", *HETEROSCEDASTIC)),
        PerImage("decoder sigma grows", "sigma_bits", "rank correlation of the decoder's sigma and JPEG bits", MORE,
                 versus=None),
    ),
    "smoother interpolation": (
        PerImage("path length", "path_length", "LPIPS of neighbouring frames over that of the ends", LESS),
        PerImage("even steps", "path_unevenness", "largest over mean LPIPS of neighbouring frames", LESS),
    ),
    "quality-diversity knob": (
        KnobTurns("residual: diversity rises", "pixels", "diversity", "LPIPS between two draws of the residual"),
        KnobTurns("residual: fidelity falls", "pixels", "fidelity", "fall of the PSNR of a drawn residual, dB,"),
        KnobTurns("posterior: diversity rises", "latent", "diversity", "LPIPS between two decoded posterior draws"),
        KnobTurns("posterior: fidelity falls", "latent", "fidelity", "fall of the PSNR of a decoded draw, dB,"),
    ),
    "sigma costs no picture": (
        PerImage("PSNR kept", "psnr", "PSNR of the mean, dB", Promise(low=-0.05)),
        PerImage("PSNR kept, ordinary VAE", "psnr", "PSNR of the mean, dB", Promise(low=-0.05), versus="fixed"),
    ),
    "calibrated sigma": (
        MetricRatio("ENCE", "ence_constant", "ence", "ENCE of one constant sigma over that of the predicted one",
                    Promise(low=5.0)),
        MetricRatio("ENCE, recalibrated", "ence_constant", "ence_recalibrated",
                    "the same after slope and offset of the log-variance were fitted on other held-out images",
                    Promise(low=5.0)),
        PerImage("AUSE below Sobel's", "ause - ause_sobel", "AUSE of sigma less that of Sobel's sigma", LESS,
                 versus=None),
    ),
    "shorter code": (
        PerImage("bound below shared", "elbo_bpd", "bits per dimension", Promise(high=-1.2), primary="band-faithful"),
        PerImage("bound below plain NLL", "elbo_bpd", "bits per dimension", LESS, versus="nll",
                 primary="band-faithful", arms=tuple(arm for arm in HETEROSCEDASTIC if arm != "nll")),
        PerImage("bound below WebP", "elbo_bpd - webp_bpd", "bits per dimension less those of lossless WebP", LESS,
                 versus=None, primary="band-faithful", arms=("shared", *HETEROSCEDASTIC)),
    ),
}  # fmt: skip

NOTES = {
    "smoother interpolation": "The mean of `faithful` and `band-faithful` is that of `shared` by construction, so "
    "their paths are the same; the arms that train mean and variance together are the real test.",
    "quality-diversity knob": "Tests the decoder's residual and the encoder's posterior. The temperature of the "
    "denoiser is not tested here.",
    "latent uncertainty means complexity": "A linear decoder has the best posterior variance beta / (beta + sum J^2 / "
    "sigma^2): smaller where the decoder is sensitive, that is where the picture is complex.",
    "calibrated sigma": "The test of the recalibrated ENCE was added after the ENCE of the first `faithful` runs was "
    "known; its threshold is that of the test before it.",
    "stable training": "Counts, not intervals: each run either holds or does not.",
}
