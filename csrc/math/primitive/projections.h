// The primitives of stage project, and the one dispatch over primitives and cameras. A new primitive is its header and
// a line here.
#pragma once
#include "ewa_projection.h"

namespace SPLATLEARN_NAMESPACE {

// Calls f(primitive, camera) with values of the types that a call asks for, and returns what f returns; `unknown` where
// there is no such camera model. R: the real of the camera.
template <class R, class F> int by_projection(int camera_model, int unknown, F f) {
    return by_camera<R>(camera_model, unknown, [&](auto camera) { return f(EwaProjection{}, camera); });
}

}  // namespace SPLATLEARN_NAMESPACE
