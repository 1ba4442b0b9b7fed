// The C ABI: one parameter struct per entry point, shared by the CPU and the CUDA library. Plain C types only.
// The caller owns every pointer. Tensors are contiguous and row-major.
//
// build_native/abi.py reads this file. It writes splatlearn/ops/abi.py (ctypes structs, constants) and the layout that
// a library reports when it is loaded. It takes one declaration per line, constants that are numbers or a quotient of
// two, and no preprocessor lines but those below. A pointer is optional in Python if its comment says "or null".
//
// Shapes:  C cameras, N Gaussians, M = rows of 2D Gaussians (C*N), K spherical-harmonics bases, D channels,
//          H x W pixels, I instances (a Gaussian in a tile), B tiles per image, F = D + 6 (+2 with absgrad) columns of
//          a gradient row.
// Memory:  of the host for the CPU library, of one device for the CUDA library, whose calls return before their end.
// real:    float or double, chosen by `scalar_bytes` (4 or 8); every `real *` of one call has the same type.
// Returns: 0, or a negative number whose sentence splatlearn_error() gives.
// "CUDA:" at a field: the CPU library neither reads nor writes it.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void real;   // float or double, see scalar_bytes
typedef void pixel;  // real, or uint8_t if another field says so

#define SPLATLEARN_RECORD 12       // numbers of a 2D Gaussian packed for the blend (csrc/cuda/record.h)
#define SPLATLEARN_TILE 16         // side of a tile, px
#define SPLATLEARN_MOMENTS 6       // first numbers of a gradient row; D colours and, with absgrad, 2 numbers follow
#define SPLATLEARN_ALPHA_MAX 0.999              // alpha is clamped to it
#define SPLATLEARN_ALPHA_THRESHOLD (1.0 / 255)  // default of alpha_threshold: a smaller alpha changes no 8-bit image
#define SPLATLEARN_LARGEST 1e12  // a Gaussian with a number that is not finite or larger than this is culled
#define SPLATLEARN_BIN_BLOCK 256   // rows that one block of stage bin counts on CUDA
#define SPLATLEARN_SORT_AUTO 0     // stage bin on CUDA chooses how to sort by its capacity
#define SPLATLEARN_SORT_ALL 1      // it sorts all instances together
#define SPLATLEARN_SORT_BY_TILE 2  // it sorts the list of each tile by itself; the lists are the same
#define SPLATLEARN_SPAN 256        // instances of a tile's list that one block of backward walks on CUDA

typedef struct {
    int32_t scalar_bytes;    // 4: float32, 8: float64
    int32_t threads;         // CPU: threads to use, at least 1; results do not depend on it
    int32_t device;          // CUDA: index of the device that holds every pointer
    void *stream;            // CUDA: the stream to work on, or null for the default one; the host waits for nothing
    void *scratch;           // CUDA: splatlearn_NAME_scratch() bytes, in use until the stream has passed it; or null
    int64_t scratch_bytes;   // CUDA: size of scratch
} splatlearn_Context;

// ---------------------------------------------------------------- project
typedef struct {
    splatlearn_Context context;
    int64_t n_cameras, n_gaussians;
    int32_t width, height;             // image size, px
    int32_t sh_degree;                 // 0..4, or -1: no colours are computed
    int32_t antialiased;               // 1: opacity is scaled by the low-pass compensation
    int32_t camera_model;              // number of a model: splatlearn/ops/cameras.py
    int32_t raw;                       // 1: scales are given as logarithms, opacities as logits; so are their gradients
    int32_t n_features;                // D of features
    int64_t sh0_stride, shN_stride;    // scalars from one Gaussian's coefficients to the next one's
    int64_t features_stride;           // scalars from one camera's features to the next one's
    double eps2d;                      // low-pass added to the 2D covariance, px^2
    double near_plane, far_plane;      // depths outside of them are culled, camera space
    double radius_clip;                // Gaussians with both radii at or below it are culled, px
    double alpha_threshold;            // alphas below it contribute nothing; 0: all contribute
    const real *means;                 // [N,3] world
    const real *quats;                 // [N,4] wxyz, of a norm from 1e-15 to 1e15; others are culled
    const real *scales;                // [N,3] standard deviations, world units, or their logarithms
    const real *opacities;             // [N] 0..1, or their logits
    const real *sh0;                   // [N,1,3] or null
    const real *shN;                   // [N,K-1,3] or null
    const real *features;              // [C,N,D] blended instead of harmonics; read by forward, which culls a Gaussian
                                       // where one of them is not finite or above SPLATLEARN_LARGEST; or null
    const real *viewmats;              // [C,4,4] world to camera
    const real *camera_params;         // [C,P] K [3,3] row-major, then the model's own: math/camera/camera.h
    const real *camera_centers;        // [C,3] world, for the viewing direction of the colours; or null without SH
} splatlearn_ProjectInputs;

typedef struct {
    splatlearn_ProjectInputs inputs;
    real *means2d;                     // [C,N,2] px
    real *depths;                      // [C,N] camera-space z
    real *conics;                      // [C,N,3] inverse 2D covariance (xx, xy, yy), 1/px^2
    real *opacities2d;                 // [C,N]
    real *colors;                      // [C,N,3] or null
    int32_t *radii;                    // [C,N,2] half extent, px; 0: culled, all outputs 0
    real *records;                     // CUDA: [C,N,SPLATLEARN_RECORD] packed for the blend, not written where culled;
                                       // or null
} splatlearn_ProjectForward;

typedef struct {
    splatlearn_ProjectInputs inputs;
    const int32_t *radii;              // [C,N,2] from forward
    const real *colors;                // [C,N,3] from forward, or null
    const real *v_means2d;             // output gradients, shapes as in forward; or null for zeros
    const real *v_depths;              // or null
    const real *v_conics;              // or null
    const real *v_opacities2d;         // or null
    const real *v_colors;              // or null
    real *v_means;                     // input gradients, shapes as in forward, every value is written; or null: not
                                       // wanted
    real *v_quats;                     // or null
    real *v_scales;                    // or null
    real *v_opacities;                 // or null
    real *v_sh0;                       // [N,1,3] contiguous, or null
    real *v_shN;                       // [N,K-1,3] contiguous, zeros for bases beyond sh_degree, or null
    int64_t n_shN;                     // K-1
    real *v_viewmats;                  // or null
    real *v_camera_params;             // [C,P] or null
    real *v_camera_centers;            // or null
} splatlearn_ProjectBackward;

// ---------------------------------------------------------------- bin
typedef struct {
    splatlearn_Context context;
    int64_t n_rows;                    // M
    int64_t n_cameras;
    int32_t width, height;             // image size, px
    double alpha_threshold;            // as in ProjectInputs
    const real *means2d;               // [M,2]
    const real *conics;                // [M,3]
    const real *opacities;             // [M]
    const real *depths;                // [M]
    const int32_t *radii;              // [M,2]
    const int64_t *camera_ids;         // [M]; or null: row r belongs to camera r / (M / C)
} splatlearn_BinInputs;

typedef struct {
    splatlearn_BinInputs inputs;
    int32_t *counts;                   // CUDA: [M] out: tiles that a row touches; or null
    int64_t *row_offsets;              // [M+1] out: prefix sum of tiles touched; CUDA writes row_offsets[M] = I alone
    int64_t *block_offsets;            // CUDA: [M/SPLATLEARN_BIN_BLOCK rounded up, + 1, 2] out: prefix sums, by blocks
                                       // of rows, of the rows that touch a tile and of the tiles that they touch; the
                                       // last are the totals V and I. CPU: [1,2] out: 0 and I
} splatlearn_BinCount;

typedef struct {
    splatlearn_BinInputs inputs;
    int64_t n_listed, n_instances;     // capacity for V rows (CUDA) and for I instances, the length of row_ids and
                                       // slots. On CUDA both may be guesses made before V and I are known: if one is
                                       // too small, all lists are empty; if I is smaller, the rest of the lists is not
                                       // written
    int32_t sorting;                   // CUDA: SPLATLEARN_SORT_AUTO, or how to sort for any capacity
    const int32_t *counts;             // CUDA: from count; or null
    int64_t *row_offsets;              // [M+1] from count; CUDA: out, every value
    const int64_t *block_offsets;      // from count
    int64_t *tile_offsets;             // [C*B+1] out: where each tile's instances begin
    int32_t *row_ids;                  // [I] out: row of each instance, by tile, then depth, then row
    int64_t *slots;                    // [I] out: place of each instance in row-major order (rows of gradients)
    int32_t *overflow;                 // CUDA: [1] set to 1 if a capacity is too small, otherwise not written; or null
} splatlearn_BinWrite;

// ---------------------------------------------------------------- rasterize
typedef struct {
    splatlearn_Context context;
    int64_t n_rows, n_cameras;
    int64_t n_instances;               // length of row_ids, and so of slots and instance_rows in backward
    int32_t width, height;             // image size, px
    int32_t channels;                  // D
    int32_t absgrad;                   // 1: backward also sums absolute mean gradients
    double alpha_threshold;            // as in ProjectInputs
    double transmittance_threshold;    // compositing stops before transmittance falls below it; 0: never
    const real *means2d;               // [M,2]
    const real *conics;                // [M,3]
    const real *opacities;             // [M]
    const real *colors;                // [M,D]
    const real *backgrounds;           // [C,D] or null
    const real *records;               // CUDA: [M,SPLATLEARN_RECORD] what the blend reads of each row, 16-byte aligned;
                                       // or null
    const int64_t *tile_offsets;       // [C*B+1]
    const int32_t *row_ids;            // [I]
} splatlearn_RasterizeInputs;

typedef struct {
    splatlearn_RasterizeInputs inputs;
    real *new_records;                 // CUDA: inputs.records, to be packed here; or null: stage project has packed
                                       // them
    real *render;                      // [C,H,W,D]
    real *alphas;                      // [C,H,W,1] = 1 - final transmittance
    real *transmittance;               // [C,H,W] final
    int32_t *stops;                    // [C,H,W] instances of the tile before the one that stopped the pixel;
                                       // INT32_MAX: none did
    int32_t *tile_order;               // CUDA: [C*B] out: tiles, longest lists first, in which order blocks begin; or
                                       // null
    int64_t *spans;                    // CUDA: [C*B + I/SPLATLEARN_SPAN] out: the spans that backward walks, longest
                                       // lists first: tile << 32 | first instance within its list, -1 at the end; or
                                       // null
    real *checkpoints;                 // CUDA: [I/SPLATLEARN_SPAN + 1,256,1+D] out: transmittance and colour of a
                                       // tile's pixels at the end of a span; or null: spans are whole lists, as for any
                                       // D but 1, 3 and 4
} splatlearn_RasterizeForward;

typedef struct {
    splatlearn_RasterizeInputs inputs;
    int32_t atomic;                    // CUDA: 1: sums by atomic additions, whose last bits vary, without instance_rows
    const int64_t *row_offsets;        // [M+1]
    const int64_t *slots;              // [I]
    const real *transmittance;         // [C,H,W]
    const int32_t *stops;              // [C,H,W]
    const real *v_render;              // [C,H,W,D]
    const real *v_alphas;              // [C,H,W,1], or null for zeros
    real *instance_rows;               // [I,F] scratch, a gradient row per instance; or null if atomic
    real *v_means2d;                   // [M,2]
    real *v_means2d_abs;               // [M,2] or null
    real *v_conics;                    // [M,3]
    real *v_opacities;                 // [M]
    real *v_colors;                    // [M,D]
    real *v_backgrounds;               // [C,D] or null
    const int64_t *spans;              // CUDA: from forward; or null
    const real *checkpoints;           // CUDA: from forward; or null
    const real *render;                // CUDA: [C,H,W,D] from forward, with checkpoints; or null
} splatlearn_RasterizeBackward;

// ---------------------------------------------------------------- photometric
typedef struct {
    splatlearn_Context context;
    int64_t n_images;                  // C
    int32_t width, height, channels;
    int32_t target_is_uint8;           // 1: target is uint8_t, 255 stands for 1; 0: target is real
    double lambda_dssim;
    const real *image;                 // [C,H,W,D]
    const pixel *target;               // [C,H,W,D]
    real *v_image;                     // [C,H,W,D] gradient of the loss with respect to image, or null
    double *l1, *ssim;                 // [1] out: means over all values
    real *loss;                        // [1] out: (1 - lambda_dssim) l1 + lambda_dssim (1 - ssim)
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

#define SPLATLEARN_ADAM_GROUPS_MAX 8  // groups of one launch

// Several groups in one launch, in the CUDA library alone.
typedef struct {
    splatlearn_Context context;
    int32_t n_groups;                  // at most SPLATLEARN_ADAM_GROUPS_MAX
    const splatlearn_Adam *groups;     // [n_groups] on the host; their contexts are not read
    int64_t n_rows;                    // rows of every group's tensors, if `visible` is given
    const uint8_t *visible;            // [n_rows] 1: the row is updated, 0: it is not; or null: all are
    const int32_t *skip;               // [1] on the device: nothing is updated if it is not 0; or null
    const real *rates;                 // [n_groups,2] on the device: lr / (1 - beta1^step) and sqrt(1 - beta2^step),
                                       // read when the kernel runs, as a recorded launch needs; or null: from
                                       // learning_rate and step
} splatlearn_AdamGroups;

// ---------------------------------------------------------------- project_update
// Backward of project and adam in one pass, for one camera and six parameters in this order: means, quats, scales,
// opacities, sh0, shN. Their gradients never reach memory.
typedef struct {
    splatlearn_ProjectBackward grad;   // of one camera, with colours; its parameters contiguous, its input gradients
                                       // null
    int64_t n_moving;                  // bases of shN whose moments may differ from 0, at least those of sh_degree; the
                                       // others are not touched
    int64_t step;                      // 1 for the first update
    double learning_rates[6];
    double beta1, beta2, eps;
    real *parameters[6];               // those of grad.inputs, updated in place
    real *exp_avg[6];                  // first moments, of the parameters' shapes, updated in place
    real *exp_avg_sq[6];               // second moments, updated in place
    const int32_t *skip;               // [1] nothing is updated if it is not 0; or null
    const real *rates;                 // CUDA: [6,2] as in AdamGroups; or null
} splatlearn_ProjectUpdate;

// The entry points: int splatlearn_NAME(const Params *). The CPU library also has splatlearn_isa_level(). The CUDA
// library also has int64_t splatlearn_NAME_scratch(const Params *): the bytes of scratch memory that such a call needs.
#define SPLATLEARN_STAGES(stage) \
    stage(project_forward, splatlearn_ProjectForward) \
    stage(project_backward, splatlearn_ProjectBackward) \
    stage(bin_count, splatlearn_BinCount) \
    stage(bin_write, splatlearn_BinWrite) \
    stage(rasterize_forward, splatlearn_RasterizeForward) \
    stage(rasterize_backward, splatlearn_RasterizeBackward) \
    stage(photometric, splatlearn_Photometric) \
    stage(adam, splatlearn_Adam) \
    stage(project_update, splatlearn_ProjectUpdate)

// Those of the CUDA library alone.
#define SPLATLEARN_CUDA_STAGES(stage) \
    stage(adam_groups, splatlearn_AdamGroups)

#ifdef __cplusplus
}
#endif
