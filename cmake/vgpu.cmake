# The virtual GPU (tests/vgpu): stand-ins for the CUDA libraries that run kernels on the host with every access checked. Built by its
# own Makefile into the build folder; the tests find it through LD_LIBRARY_PATH, which is why the binaries link the runtime shared and
# embed PTX. Where there is a real device the tests use that.
set(EXPCTR_VGPU "" CACHE PATH "Folder of a virtual GPU that is built already, with lib/ in it; empty: build tests/vgpu")

set(vgpu_in_use OFF)
if(EXPCTR_HAS_CUDA AND NOT EXISTS /dev/nvidia0)
  set(vgpu_in_use ON)
endif()
if(EXPCTR_HAS_CUDA)
  get_filename_component(cuda_home ${CMAKE_CUDA_COMPILER} REALPATH)
  get_filename_component(cuda_home ${cuda_home} DIRECTORY)
  get_filename_component(cuda_home ${cuda_home} DIRECTORY)
  if(EXPCTR_VGPU)
    set(vgpu_folder ${EXPCTR_VGPU})
    add_custom_target(vgpu)
  else()
    set(vgpu_folder ${CMAKE_BINARY_DIR}/vgpu)
    add_custom_target(vgpu ALL COMMAND ${CMAKE_SOURCE_DIR}/scripts/build_vgpu.sh ${vgpu_folder} ${cuda_home}
                      COMMENT "Virtual GPU (about a minute the first time)" VERBATIM)
  endif()
endif()
