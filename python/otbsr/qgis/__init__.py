"""At home in QGIS: its OTB provider set up for our applications, a model for its graphical modeler, a style for land cover."""
