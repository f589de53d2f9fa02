<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">
      <colorPalette>
        <paletteEntry value="1" label="building" color="#d7301f" alpha="255"/>
        <paletteEntry value="2" label="road and paved" color="#737373" alpha="255"/>
        <paletteEntry value="3" label="bare soil" color="#d9b382" alpha="255"/>
        <paletteEntry value="4" label="crop" color="#f2e26b" alpha="255"/>
        <paletteEntry value="5" label="grassland" color="#a6d96a" alpha="255"/>
        <paletteEntry value="6" label="broadleaf trees" color="#33a02c" alpha="255"/>
        <paletteEntry value="7" label="conifers" color="#1b5e3b" alpha="255"/>
        <paletteEntry value="8" label="water" color="#4292c6" alpha="255"/>
        <paletteEntry value="9" label="garden and urban green" color="#ccebc5" alpha="255"/>
      </colorPalette>
    </rasterrenderer>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
