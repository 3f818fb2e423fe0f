# find_package(onnxc): compiled ONNX models as libraries.
#
#   onnxc_add_model(TARGET MODEL.onnx [NAME PREFIX] [DIM NAME=N|A..B ...] [CPU NAME] [OPTIONS OPTION ...])
#
# makes the static library TARGET, which holds the model's code and weights and brings in its header PREFIX.h. PREFIX is
# TARGET by default. CPU is what `onnxc targets` lists, such as native or x86_64-avx512; by default any processor of
# CMAKE_SYSTEM_PROCESSOR will do. OPTIONS go to onnxc as they are.
#
# The target onnxc::support is the support library (thread pool, sessions, strings, GPUs), compiled with the project's own compiler.
#
# `onnxc support --out PREFIX` wrote this file. ONNXC_EXECUTABLE names the compiler where it is not on the PATH.

get_filename_component(_onnxc_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(ONNXC_INCLUDE_DIR "${_onnxc_prefix}/include")
set(ONNXC_SOURCE_DIR "${_onnxc_prefix}/share/onnxc")

# The compiler runs on the host, whatever the target is.
find_program(ONNXC_EXECUTABLE onnxc HINTS "${_onnxc_prefix}/bin" NO_CMAKE_FIND_ROOT_PATH)
if(NOT ONNXC_EXECUTABLE)
  set(onnxc_FOUND FALSE)
  set(onnxc_NOT_FOUND_MESSAGE "the program onnxc is not on the PATH: set ONNXC_EXECUTABLE")
  return()
endif()

if(NOT TARGET onnxc::support)
  find_package(Threads REQUIRED)
  set(_onnxc_sources @SOURCES@)
  list(TRANSFORM _onnxc_sources PREPEND "${ONNXC_SOURCE_DIR}/")
  add_library(onnxc_support STATIC ${_onnxc_sources})
  target_include_directories(onnxc_support PUBLIC "${ONNXC_INCLUDE_DIR}")
  target_link_libraries(onnxc_support PUBLIC Threads::Threads ${CMAKE_DL_LIBS})
  target_compile_features(onnxc_support PUBLIC c_std_11)
  set_target_properties(onnxc_support PROPERTIES POSITION_INDEPENDENT_CODE ON)
  add_library(onnxc::support ALIAS onnxc_support)
endif()

# The target of onnxc that any processor of CMake's platform runs.
function(_onnxc_platform result)
  string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
  if(processor MATCHES "^(x86_64|amd64|x64)$")
    set(processor x86_64)
  elseif(processor MATCHES "^(aarch64|arm64)$")
    set(processor aarch64)
  endif()
  if(CMAKE_SYSTEM_NAME STREQUAL "Windows")
    set(processor "${processor}-pc-windows-$<IF:$<BOOL:${MSVC}>,msvc,gnu>")
  elseif(CMAKE_SYSTEM_NAME STREQUAL "Darwin")
    set(processor "${processor}-apple-darwin")
  elseif(CMAKE_SYSTEM_NAME STREQUAL "Generic")
    set(processor "${processor}-unknown-none")
  endif()
  set(${result} "${processor}" PARENT_SCOPE)
endfunction()

function(onnxc_add_model target model)
  cmake_parse_arguments(PARSE_ARGV 2 ONNXC "" "NAME;CPU" "DIM;OPTIONS")
  if(ONNXC_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "onnxc_add_model(${target}): unknown arguments ${ONNXC_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT ONNXC_NAME)
    set(ONNXC_NAME "${target}")
  endif()
  if(NOT ONNXC_CPU)
    _onnxc_platform(ONNXC_CPU)
  endif()
  get_filename_component(model "${model}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/onnxc/${target}")
  file(MAKE_DIRECTORY "${folder}")
  set(object "${folder}/${ONNXC_NAME}${CMAKE_C_OUTPUT_EXTENSION}")
  set(header "${folder}/${ONNXC_NAME}.h")
  set(arguments "${model}" -o "${object}" --name "${ONNXC_NAME}" --target "${ONNXC_CPU}")
  foreach(dim IN LISTS ONNXC_DIM)
    list(APPEND arguments --dim "${dim}")
  endforeach()
  add_custom_command(
    OUTPUT "${object}" "${header}"
    COMMAND "${ONNXC_EXECUTABLE}" ${arguments} --depfile "${object}.d" ${ONNXC_OPTIONS}
    DEPENDS "${model}" "${ONNXC_EXECUTABLE}"
    DEPFILE "${object}.d"
    COMMENT "Compiling ${ONNXC_NAME} for ${ONNXC_CPU}"
    VERBATIM)
  add_library(${target} STATIC "${object}" "${header}")
  set_source_files_properties("${object}" PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  set_target_properties(${target} PROPERTIES LINKER_LANGUAGE C)
  target_include_directories(${target} PUBLIC "${folder}" "${ONNXC_INCLUDE_DIR}")
endfunction()
