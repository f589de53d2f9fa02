set(DOCUMENTATION "Super-resolution of satellite images with TensorFlow models, and the patches to train them.
TensorFlow is loaded at run time: the module does not depend on it when it is built.")

otb_module(OTBSuperResolutionTools
  DEPENDS
    OTBCommon
    OTBImageBase
    OTBImageIO
    OTBIOGDAL
    OTBGdalAdapters
    OTBMetadata
    OTBExtendedFilename
    OTBObjectList
    OTBProjection
    OTBImageManipulation
    OTBApplicationEngine
    OTBBoost
    OTBGDAL
    OTBITK
  TEST_DEPENDS
    OTBApplicationEngine
  DESCRIPTION
    ${DOCUMENTATION}
)
