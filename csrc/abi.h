// The C ABI: one parameter struct per entry point, shared by the CPU and the CUDA library and mirrored by
// splatlearn/ops/native.py. Plain C types only; the caller owns every pointer; tensors are contiguous and row-major.
//
// Shapes:  C cameras, N Gaussians, M = rows of 2D Gaussians (C*N), K spherical-harmonics bases, D channels,
//          H x W pixels, I instances (a Gaussian in a tile), B tiles per image, F = D + 6 (+2 with absgrad) gradient columns.
// Memory:  of the host for the CPU library, of one device for the CUDA library, whose calls return before their work is done.
// real:    float or double, chosen by `scalar_bytes` (4 or 8); every `real*` of one call has the same type.
// Returns: 0, or a negative number whose sentence splatlearn_error() gives.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void real;  // float or double, see scalar_bytes

#define SPLATLEARN_RECORD 12     // numbers of a 2D Gaussian packed for the blend (csrc/cuda/record.h)
#define SPLATLEARN_TILE 16       // side of a tile, pixels
#define SPLATLEARN_MOMENTS 6     // moments at the head of a gradient row; D colours and, with absgrad, 2 numbers follow
#define SPLATLEARN_ALPHA_MAX 0.999             // alpha is clamped to it
#define SPLATLEARN_ALPHA_THRESHOLD (1.0 / 255)  // default of alpha_threshold: a smaller alpha changes no 8-bit image
#define SPLATLEARN_BIN_BLOCK 256  // rows that stage bin counts together on CUDA
#define SPLATLEARN_SORT_AUTO 0     // which way stage bin sorts on CUDA: as its room suggests,
#define SPLATLEARN_SORT_ALL 1      // all instances together,
#define SPLATLEARN_SORT_BY_TILE 2  // or the list of each tile by itself; the lists are the same
#define SPLATLEARN_SPAN 256       // instances of a list that backward walks by itself on CUDA

typedef struct {
    int32_t scalar_bytes;    // 4: float32, 8: float64
    int32_t threads;         // CPU: threads to use, at least 1; results do not depend on it
    int32_t device;          // CUDA: index of the device that holds every pointer
    void *stream;            // CUDA: the stream to work on; nothing is awaited on the host
    void *scratch;           // CUDA: memory of at least splatlearn_NAME_scratch() bytes, free again once the stream has passed; may be null for 0
    int64_t scratch_bytes;   // CUDA: its size
} splatlearn_Context;

// ---------------------------------------------------------------- project
typedef struct {
    splatlearn_Context context;
    int64_t n_cameras, n_gaussians;
    int32_t width, height;             // image size, pixels
    int32_t sh_degree;                 // 0..4, or -1: no colours are computed
    int32_t antialiased;               // 1: opacity is scaled by the low-pass compensation
    int32_t raw;                       // 1: scales are given as logarithms, opacities as logits; so are their gradients
    int64_t sh0_stride, shN_stride;    // scalars from one Gaussian's coefficients to the next one's
    double eps2d;                      // low-pass added to the 2D covariance, px^2
    double near_plane, far_plane;      // camera-space depth limits
    double radius_clip;                // Gaussians with both radii at or below it are culled, px
    double alpha_threshold;            // alpha below it is not drawn (0: never)
    const real *means;                 // [N,3] world
    const real *quats;                 // [N,4] wxyz, of a norm from 1e-12 to 1e12
    const real *scales;                // [N,3] standard deviations, world units, or their logarithms
    const real *opacities;             // [N] 0..1, or their logits
    const real *sh0;                   // [N,1,3] or null
    const real *shN;                   // [N,K-1,3] or null
    const real *viewmats;              // [C,4,4] world to camera
    const real *Ks;                    // [C,3,3]
    const real *camera_centers;        // [C,3] world, for the viewing direction of the colours; may be null without SH
} splatlearn_ProjectInputs;

typedef struct {
    splatlearn_ProjectInputs inputs;
    real *means2d;                     // [C,N,2] px
    real *depths;                      // [C,N] camera-space z
    real *conics;                      // [C,N,3] inverse 2D covariance (xx, xy, yy), 1/px^2
    real *opacities2d;                 // [C,N]
    real *colors;                      // [C,N,3] or null
    int32_t *radii;                    // [C,N,2] half extent in px, 0: culled (all outputs 0)
    real *records;                     // [C,N,SPLATLEARN_RECORD] CUDA: packed for the blend, as they are where culled; may be null
} splatlearn_ProjectForward;

typedef struct {
    splatlearn_ProjectInputs inputs;
    const int32_t *radii;              // [C,N,2] from forward
    const real *colors;                // [C,N,3] from forward, or null
    const real *v_means2d;             // output gradients, shapes as in forward; null: zero
    const real *v_depths;
    const real *v_conics;
    const real *v_opacities2d;
    const real *v_colors;
    real *v_means;                     // input gradients, shapes as in forward, written whole; null: not wanted
    real *v_quats;
    real *v_scales;
    real *v_opacities;
    real *v_sh0;                       // [N,1,3] contiguous
    real *v_shN;                       // [N,K-1,3] contiguous, bases beyond sh_degree are written as zero
    int64_t n_shN;                     // K-1
    real *v_viewmats;
    real *v_Ks;
    real *v_camera_centers;
} splatlearn_ProjectBackward;

// ---------------------------------------------------------------- bin
typedef struct {
    splatlearn_Context context;
    int64_t n_rows;                    // M
    int64_t n_cameras;
    int32_t width, height;
    double alpha_threshold;
    const real *means2d;               // [M,2]
    const real *conics;                // [M,3]
    const real *opacities;             // [M]
    const real *depths;                // [M]
    const int32_t *radii;              // [M,2]
    const int64_t *camera_ids;         // [M], or null: row r belongs to camera r / (M / C)
} splatlearn_BinInputs;

typedef struct {
    splatlearn_BinInputs inputs;
    int32_t *counts;                   // [M] CUDA, out: tiles touched
    int64_t *row_offsets;              // [M+1] out: prefix sum of tiles touched; row_offsets[M] = I, on CUDA that alone
    int64_t *block_offsets;            // [M/SPLATLEARN_BIN_BLOCK rounded up, + 1, 2] CUDA, out: prefix sums, by blocks of rows, of the rows
                                       // that touch a tile and of the tiles they touch; the last are their numbers V and I. CPU: [1,2], 0 and I
} splatlearn_BinCount;

typedef struct {
    splatlearn_BinInputs inputs;
    int64_t n_listed, n_instances;     // room for V rows (CUDA) and for I instances, the length of row_ids and slots. On CUDA both may
                                       // be guesses made before V and I are known: where they are too small, the lists come
                                       // out empty; where I is less, their end stays as it was
    int32_t sorting;                   // CUDA: SPLATLEARN_SORT_AUTO, or how it is done whatever the room
    const int32_t *counts;             // from count
    int64_t *row_offsets;              // [M+1] from count; CUDA: written whole
    const int64_t *block_offsets;      // from count
    int64_t *tile_offsets;             // [C*B+1] out: where each tile's instances begin
    int32_t *row_ids;                  // [I] out: row of each instance, by tile, then depth, then row
    int64_t *slots;                    // [I] out: place of each instance in row-major order (rows of gradients)
    int32_t *overflow;                 // CUDA: set to 1 where the room is too small, else left as it is; may be null
} splatlearn_BinWrite;

// ---------------------------------------------------------------- rasterize
typedef struct {
    splatlearn_Context context;
    int64_t n_rows, n_cameras;
    int64_t n_instances;               // length of row_ids and of what follows them
    int32_t width, height;
    int32_t channels;                  // D
    int32_t absgrad;                   // backward also sums absolute mean gradients
    double alpha_threshold;
    double transmittance_threshold;    // compositing stops before transmittance falls below it (0: never)
    const real *means2d;               // [M,2]
    const real *conics;                // [M,3]
    const real *opacities;             // [M]
    const real *colors;                // [M,D]
    const real *backgrounds;           // [C,D] or null
    const real *records;               // [M,SPLATLEARN_RECORD] CUDA: what the blend reads of each listed row, 16-byte aligned
    const int64_t *tile_offsets;       // [C*B+1]
    const int32_t *row_ids;            // [I]
} splatlearn_RasterizeInputs;

typedef struct {
    splatlearn_RasterizeInputs inputs;
    real *new_records;                 // CUDA: in.records, to be made here of the other tensors; null: they are stage project's
    real *render;                      // [C,H,W,D]
    real *alphas;                      // [C,H,W,1] = 1 - final transmittance
    real *transmittance;               // [C,H,W] final
    int32_t *stops;                    // [C,H,W] instances of the tile before the one at which the pixel stopped (all: INT32_MAX)
    int32_t *tile_order;               // [C*B] CUDA, out: tiles by falling length of their lists, so that the longest begin first
    int64_t *spans;                    // [C*B + I/SPLATLEARN_SPAN] CUDA, out: what backward walks one by one, in like order:
                                       // tile << 32 | first instance within its list; -1 at the end; null: no backward will come
    real *checkpoints;                 // [I/SPLATLEARN_SPAN + 1,256,1+D] CUDA, out: transmittance and colour of a tile's pixels where
                                       // a span ends; null: spans are whole lists, as they must be unless D is 1, 3 or 4
} splatlearn_RasterizeForward;

typedef struct {
    splatlearn_RasterizeInputs inputs;
    int32_t atomic;                    // CUDA: 1: sums by atomic additions, whose last bits vary; slots, instance_rows: null
    const int64_t *row_offsets;        // [M+1]
    const int64_t *slots;              // [I]
    const real *transmittance;         // [C,H,W]
    const int32_t *stops;              // [C,H,W]
    const real *v_render;              // [C,H,W,D]
    const real *v_alphas;              // [C,H,W,1], or null for zeros
    real *instance_rows;               // [I,F] scratch: a gradient row per instance
    real *v_means2d;                   // [M,2]
    real *v_means2d_abs;               // [M,2] or null
    real *v_conics;                    // [M,3]
    real *v_opacities;                 // [M]
    real *v_colors;                    // [M,D]
    real *v_backgrounds;               // [C,D] or null
    const int64_t *spans;              // CUDA, input from forward
    const real *checkpoints;           // likewise
    const real *render;                // [C,H,W,D] from forward; CUDA, with checkpoints
} splatlearn_RasterizeBackward;

// ---------------------------------------------------------------- photometric
typedef struct {
    splatlearn_Context context;
    int64_t n_images;
    int32_t width, height, channels;
    int32_t target_is_uint8;           // 1: target is uint8, value / 255
    double lambda_dssim;
    const real *image;                 // [C,H,W,D]
    const void *target;                // [C,H,W,D] real or uint8
    real *v_image;                     // [C,H,W,D] gradient of the loss to image, or null
    double *l1, *ssim;                 // out: means over all values
    real *loss;                        // out: (1 - lambda_dssim) l1 + lambda_dssim (1 - ssim)
} splatlearn_Photometric;

// ---------------------------------------------------------------- adam
typedef struct {
    splatlearn_Context context;
    int64_t count;                     // scalars in the group
    int64_t step;                      // 1 for the first update
    double learning_rate, beta1, beta2, eps;
    real *parameter;                   // [count] updated in place
    const real *gradient;              // [count]
    real *exp_avg;                     // [count] first moment, updated in place
    real *exp_avg_sq;                  // [count] second moment, updated in place
} splatlearn_Adam;

// Several groups in one launch, in the CUDA library alone: int splatlearn_adam_groups(const splatlearn_AdamGroups *).
#define SPLATLEARN_ADAM_GROUPS_MAX 8
typedef struct {
    splatlearn_Context context;
    int32_t n_groups;                  // at most SPLATLEARN_ADAM_GROUPS_MAX
    const splatlearn_Adam *groups;     // [n_groups] on the host; their contexts are not read
    int64_t n_rows;                    // rows that every group's tensors have, if `visible` is given
    const uint8_t *visible;            // [n_rows] rows to update, 1, or to leave as they are, 0; null: all
    const int32_t *skip;               // on the device: where it is not 0 nothing is updated; may be null
    const real *rates;                 // [n_groups,2] on the device: lr / (1 - beta1^step) and sqrt(1 - beta2^step), read when the
                                       // kernel runs, as a recorded launch needs; null: by learning_rate and step of each group
} splatlearn_AdamGroups;

// ---------------------------------------------------------------- project_update
// Backward of project and adam in one pass, for one camera and six parameters: means, quats, scales, opacities, sh0, shN, in this
// order. Their gradients never reach memory.
typedef struct {
    splatlearn_ProjectBackward grad;   // of one camera, with colours; its parameters contiguous, its input gradients null
    int64_t n_moving;                  // bases of shN whose moments may not be zero, at least those of sh_degree; others stay
    int64_t step;                      // 1 for the first update
    double learning_rates[6];
    double beta1, beta2, eps;
    real *parameters[6];               // those of grad.inputs, updated in place
    real *exp_avg[6];                  // first moments, of the parameters' shapes, updated in place
    real *exp_avg_sq[6];               // second moments, updated in place
    const int32_t *skip;               // where it is not 0 nothing is updated; may be null
    const real *rates;                 // [6,2] CUDA: as in AdamGroups; may be null
} splatlearn_ProjectUpdate;

// The entry points: int splatlearn_NAME(const Params *). The CPU library also has splatlearn_isa_level(), the CUDA library
// int64_t splatlearn_NAME_scratch(const Params *), the bytes of scratch memory that a call with these sizes wants.
#define SPLATLEARN_STAGES(stage)                                                                                            \
    stage(project_forward, splatlearn_ProjectForward) stage(project_backward, splatlearn_ProjectBackward)                   \
    stage(bin_count, splatlearn_BinCount) stage(bin_write, splatlearn_BinWrite)                                             \
    stage(rasterize_forward, splatlearn_RasterizeForward) stage(rasterize_backward, splatlearn_RasterizeBackward)           \
    stage(photometric, splatlearn_Photometric) stage(adam, splatlearn_Adam)                                                 \
    stage(project_update, splatlearn_ProjectUpdate)

#ifdef __cplusplus
}
#endif
