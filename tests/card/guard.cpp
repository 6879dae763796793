// What torch's C++ side must believe for tensors to say "cuda:N" without a card: two devices, one of them current.
// Built by guard_build.py against the headers of the torch in use, and loaded before it (pretended.py).
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/FakeGuardImpl.h>

using Guard = c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>;

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}

struct CUDAHooks : public at::CUDAHooksInterface {
  CUDAHooks() = default;
  CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 2; }
  c10::DeviceIndex getCurrentDevice() const override { return Guard::getDeviceIndex(); }
  void setCurrentDevice(c10::DeviceIndex index) const override { Guard::setDeviceIndex(index); }
};

namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks)
}

extern "C" int current_device() { return Guard::getDeviceIndex(); }
extern "C" void set_current_device(int index) { Guard::setDeviceIndex(static_cast<c10::DeviceIndex>(index)); }
